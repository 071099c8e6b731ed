-- Takes a message back where no turn of it has begun, some deliveries at a time. Each either is cancelled or was too
-- late; never both. Those of a bulk send that are not made yet will be made cancelled (lua/expand.lua).
-- KEYS: the tenant's root
-- ARGV: message_id first
-- RETURNS: {status, next_look_ms, where to go on (0: over), {delivery_id, result}...}; status is found or not_found,
--   result is cancelled or the state it is in; next_look_ms is now where what stood behind a cancelled delivery can
--   go and nobody was rung
though_full()
if not registered() then return {'not_found', '0', 0} end
local message_id, first = ARGV[1], tonumber(ARGV[2])
local record = key('message', message_id)
local known = redis.call('HMGET', record, 'state', 'entry', 'deliveries', 'expanded')
if not known[1] then return {'not_found', '0', 0} end
if known[1] == 'accepted' then
  redis.call('XDEL', key('tasks'), known[2])
  redis.call('HSET', record, 'cause', 'by_sender', 'deliveries', 0)
  count('accepted', -1)
  count('cancelled', 1)
  event(message_id, '', '', 'cancelled', 'by_sender')
  message_ended(message_id)
  redis.call('HSET', record, 'state', 'cancelled')
  post_end(message_id, '', 'cancelled', 'by_sender', '')
  return {'found', digits(next_look_or_now()), 0, {message_id, 'cancelled'}}
end
if known[1] == 'expanding' then redis.call('HSET', record, 'cancelled', 1) end
local answer = {'found', '0', 0}
local total, made = tonumber(known[3] or 0), tonumber(known[4] or known[3] or 0)
local last = math.min(total, first + PER_STEP - 1)
for number = first, last do
  local delivery = message_id .. ':' .. number
  local result = 'cancelled'
  if number <= made then
    local one = redis.call('HMGET', key('delivery', delivery), 'state', 'agent', 'fate')
    result = one[1]
    if one[1] == 'waiting' and one[3] ~= 'open' then
      finish(delivery, one[2], 'waiting', 'cancelled', 'by_sender', '')
      refresh(one[2])
      result = 'cancelled'
    elseif one[1] == 'waiting' then
      -- its call may have reached the agent: too late to say that it did not
      result = 'running'
    end
  end
  answer[#answer + 1] = {delivery, result}
end
if #answer == 3 then answer[#answer + 1] = {message_id, known[1]} end
if last < total then answer[3] = last + 1 end
answer[2] = digits(next_look_or_now())
return answer
