-- Lets a paused message go on: what was set aside becomes due at its time, or now, in its old place.
-- KEYS: the tenant's root
-- ARGV: message_id
-- RETURNS: {status, next_look_ms}; status is resumed, already or not_found
if not registered() then return {'not_found', '0'} end
local message_id, AT_ONCE = ARGV[1], 1000
local record = key('message', message_id)
if redis.call('EXISTS', record) == 0 then return {'not_found', '0'} end
if redis.call('HDEL', record, 'paused') == 0 then return {'already', '0'} end
local set_aside = redis.call('ZRANGE', key('aside', message_id), 0, -1)
local due = {}
for _, delivery in ipairs(set_aside) do
  due[#due + 1] = digits(NOW)
  due[#due + 1] = 'd:' .. delivery
end
for from = 1, #due, 2 * AT_ONCE do
  redis.call('ZADD', key('later'), unpack(due, from, math.min(from + 2 * AT_ONCE - 1, #due)))
end
redis.call('DEL', key('aside', message_id))
return {'resumed', digits(next_look_or_now())}
