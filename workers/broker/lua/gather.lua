-- Closes a gathering: what has come by now is what was gathered, and goes on as one. Only one look closes it.
-- KEYS: the tenant's root
-- ARGV: message_id text forward_id forward_digest forward_envelope deliveries...
-- RETURNS: {status, next_look_ms}; status is gathered, early or gone
if not registered() then return {'gone', '0'} end
local message_id, text, forward_id, digest, envelope = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local due = redis.call('ZSCORE', key('gathers'), message_id)
if not due then return {'gone', '0'} end
if tonumber(due) > NOW then return {'early', '0'} end
local record = key('message', message_id)
redis.call('ZREM', key('gathers'), message_id)
if redis.call('EXISTS', record) == 0 then return {'gone', '0'} end
redis.call('HSET', record, 'gathered_at', digits(NOW), 'gathered', table.concat(ARGV, ' ', 6))
if forward_id ~= '' and accept(forward_id, digest, envelope, #envelope) ~= 'conflict' then
  redis.call('HSET', record, 'reply_message', forward_id)
end
local answers = redis.call('HGET', record, 'answers')
if answers then
  post(answers, cjson.encode({id = message_id, message_id = message_id, state = 'delivered', cause = 'gathered',
    text = text, at_ms = NOW, correlation_id = string.match(answers, '^%a+|[^|]*|(.*)$')}))
end
local first = redis.call('HMGET', key('delivery', message_id .. ':1'), 'agent', 'state')
if first[1] then event(message_id, message_id .. ':1', first[1], first[2], 'gathered') end
return {'gathered', digits(next_look_or_now())}
