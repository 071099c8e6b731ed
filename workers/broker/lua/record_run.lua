-- Stores the run id the moment the server names it: the server has taken the turn.
-- KEYS: the tenant's root
-- ARGV: delivery_id agent token run_id
-- RETURNS: 1, or 0 where the lease is lost
though_full()
if not registered() then return 0 end
local delivery_id, agent, token, run_id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local holder = redis.call('HGET', key('holders'), agent) or ''
if string.match(holder, '^(%d+)|') ~= token then return 0 end
local record = key('delivery', delivery_id)
-- A worker that joins the run of another's call hears its id again: it was taken when it was first named.
local known = redis.call('HMGET', record, 'run', 'delivered_at')
if known[1] ~= run_id or not known[2] then
  redis.call('HSET', record, 'run', run_id, 'delivered_at', digits(NOW))
end
return 1
