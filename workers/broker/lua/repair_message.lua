-- Mends one message by its deliveries: how many are made and open, whether it has ended, and the lists that it stands
-- in. Whose recipients are neither made nor taken down is for a person: nothing says who they were.
-- KEYS: the tenant's root
-- ARGV: message_id
-- RETURNS: next_look_ms
if not registered() then return '0' end
local message = ARGV[1]
local ENDS = {'delivered', 'expired', 'refused', 'dead', 'cancelled', 'unknown'}
local record = key('message', message)
local known = redis.call('HMGET', record, 'state', 'deliveries', 'accepted_at', 'letters', 'many', 'gather_want',
  'gathered_at')

if known[1] then
  redis.call('ZADD', key('messages'), known[3], message)
else
  redis.call('ZREM', key('messages'), message)
  redis.call('ZREM', key('bulks'), message)
end
-- What stands aside under a message that is not its own, or is not paused, would never come back.
local paused = redis.call('HEXISTS', record, 'paused') == 1
for _, delivery in ipairs(redis.call('ZRANGE', key('aside', message), 0, -1)) do
  local own = message_of(delivery) == message
  if not own or not paused then redis.call('ZREM', key('aside', message), delivery) end
  if own and not paused and redis.call('HGET', key('delivery', delivery), 'state') == 'waiting' then
    redis.call('ZADD', key('later'), digits(NOW), 'd:' .. delivery)
  end
end
if known[1] == 'expanding' then
  redis.call('ZADD', key('bulks'), known[3], message)
else
  redis.call('DEL', key('snapshot', message))
end
if known[6] and not known[7] then
  redis.call('ZADD', key('gathers'), 'NX', digits(NOW), message)
else
  redis.call('ZREM', key('gathers'), message)
end
local state = known[1]
if state == 'expanding' or state == 'open' or state == 'ended' then
  local open, made, ends = 0, 0, {}
  for number = 1, tonumber(known[2] or 0) do
    local one = redis.call('HGET', key('delivery', message .. ':' .. number), 'state')
    if one then
      made = made + 1
    end
    if one == 'waiting' or one == 'running' then open = open + 1 elseif one then ends[one] = (ends[one] or 0) + 1 end
  end
  for _, ended in ipairs(ENDS) do
    redis.call('HDEL', record, 'n_' .. ended)
    if known[5] and ends[ended] then redis.call('HSET', record, 'n_' .. ended, ends[ended]) end
  end
  if state == 'expanding' then
    local left = redis.call('LLEN', key('snapshot', message))
    if made + left == tonumber(known[2]) then
      redis.call('HSET', record, 'open', open + left, 'expanded', made)
    end
  else
    state = open > 0 and 'open' or 'ended'
    redis.call('HSET', record, 'open', open, 'state', state)
  end
end
if not state or state == 'accepted' or state == 'expanding' or state == 'open' or known[4] then
  redis.call('ZREM', key('ended'), message)
else
  redis.call('ZADD', key('ended'), 'NX', digits(NOW + KEPT_MS), message)
end
return digits(next_look_or_now())
