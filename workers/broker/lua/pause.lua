-- Pauses a message: no further turn of it begins. What is taken from a mailbox meanwhile is set aside (lua/take.lua);
-- what runs, or was cut and is looked after, comes to its end.
-- KEYS: the tenant's root
-- ARGV: message_id
-- RETURNS: paused, already, ended or not_found
if not registered() then return 'not_found' end
local record = key('message', ARGV[1])
local known = redis.call('HMGET', record, 'state', 'paused')
if not known[1] then return 'not_found' end
if known[1] ~= 'accepted' and known[1] ~= 'expanding' and known[1] ~= 'open' then return 'ended' end
if known[2] then return 'already' end
redis.call('HSET', record, 'paused', digits(NOW))
return 'paused'
