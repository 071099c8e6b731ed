-- Mends one agent: a lease of nothing is dropped, a turn whose lease is missing is taken back by the next sweep, it is
-- held where its record says that it is parked, and it stands where its mailbox says: ready, later or nowhere.
-- KEYS: the tenant's root
-- ARGV: agent
-- RETURNS: next_look_ms
if not registered() then return '0' end
local agent = ARGV[1]

local token, delivery = string.match(redis.call('HGET', key('holders'), agent) or '', '^(%d+)|([^|]*)|')
local known = redis.call('HMGET', key('delivery', delivery), 'state', 'token')
if known[1] == 'running' and known[2] == token then
  redis.call('ZADD', key('leases'), 'NX', digits(NOW), agent)
else
  free(agent)
end
local _, cause = held_until(agent)
if redis.call('HEXISTS', key('parked'), agent) == 1 then
  redis.call('HSET', key('holds'), agent, digits(PARKED_MS) .. '|parked')
elseif cause == 'parked' then
  redis.call('HDEL', key('holds'), agent)
end
refresh(agent)
return digits(next_look_or_now())
