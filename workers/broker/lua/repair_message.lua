-- Mends one message by its deliveries: how many are open, whether it has ended, and the lists that it stands in.
-- KEYS: the tenant's root
-- ARGV: message_id
-- RETURNS: next_look_ms
local message = ARGV[1]
local record = key('message', message)
local known = redis.call('HMGET', record, 'state', 'deliveries', 'accepted_at', 'letters')

if known[1] then
  redis.call('ZADD', key('messages'), known[3], message)
else
  redis.call('ZREM', key('messages'), message)
end
local state = known[1]
if state == 'open' or state == 'ended' then
  local open = 0
  for number = 1, tonumber(known[2] or 0) do
    local one = redis.call('HGET', key('delivery', message .. ':' .. number), 'state')
    if one == 'waiting' or one == 'running' then open = open + 1 end
  end
  state = open > 0 and 'open' or 'ended'
  redis.call('HSET', record, 'open', open, 'state', state)
end
if not state or state == 'accepted' or state == 'open' or known[4] then
  redis.call('ZREM', key('ended'), message)
else
  redis.call('ZADD', key('ended'), 'NX', digits(NOW + KEPT_MS), message)
end
return digits(next_look_or_now())
