-- Marks messages that have come to their end as read by a named reader, once. What is redriven is unread again.
-- KEYS: the tenant's root
-- ARGV: reader message_ids...
-- RETURNS: {result...}; result is acked, already, not_over or not_found
local there, reader = registered(), ARGV[1]
local over = {ended = true, refused = true, cancelled = true}

local function ack(message_id)
  local record = key('message', message_id)
  local known = redis.call('HMGET', record, 'state', 'acks')
  if not there or not known[1] then return 'not_found' end
  if not over[known[1]] then return 'not_over' end
  local acks = known[2] or ''
  if string.find('\n' .. acks, '\n' .. reader .. '|', 1, true) then return 'already' end
  redis.call('HSET', record, 'acks', acks .. reader .. '|' .. digits(NOW) .. '\n')
  return 'acked'
end

local results = {}
for i = 2, #ARGV do results[#results + 1] = ack(ARGV[i]) end
return results
