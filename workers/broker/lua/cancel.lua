-- Takes a message back where no turn of it has begun. Each delivery either is cancelled or was too late; never both.
-- KEYS: the tenant's root
-- ARGV: message_id
-- RETURNS: {status, next_look_ms, {delivery_id, result}...}; status is found or not_found, result is cancelled or the
--   state it is in; next_look_ms is now where what stood behind a cancelled delivery can go and nobody was rung
local message_id = ARGV[1]
local record = key('message', message_id)
local known = redis.call('HMGET', record, 'state', 'entry', 'deliveries')
if not known[1] then return {'not_found', '0'} end
if known[1] == 'accepted' then
  redis.call('XDEL', key('tasks'), known[2])
  redis.call('HSET', record, 'state', 'cancelled', 'cause', 'by_sender', 'deliveries', 0)
  count('accepted', -1)
  count('cancelled', 1)
  event(message_id, '', '', 'cancelled', 'by_sender')
  message_ended(message_id)
  return {'found', digits(next_look_or_now()), {message_id, 'cancelled'}}
end
local answer = {'found', '0'}
for number = 1, tonumber(known[3] or 0) do
  local delivery = message_id .. ':' .. number
  local one = redis.call('HMGET', key('delivery', delivery), 'state', 'agent', 'fate')
  local result = one[1]
  if one[1] == 'waiting' and one[3] ~= 'open' then
    finish(delivery, one[2], 'waiting', 'cancelled', 'by_sender', '')
    refresh(one[2])
    result = 'cancelled'
  elseif one[1] == 'waiting' then
    -- its call may have reached the agent: too late to say that it did not
    result = 'running'
  end
  answer[#answer + 1] = {delivery, result}
end
if #answer == 2 then answer[#answer + 1] = {message_id, known[1]} end
answer[2] = digits(next_look_or_now())
return answer
