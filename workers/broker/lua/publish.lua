-- Puts a message on its tenant's stream, once for each id (kept until the message is purged).
-- KEYS: the tenant's root
-- ARGV: message_id digest envelope size expires_at_ms answers by_operator
-- RETURNS: {status, accepted_at_ms}; status is accepted, duplicate, conflict, unknown_tenant, suspended, expired,
--   too_large or overloaded
local message_id, digest, envelope, size = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local expires_at, answers = tonumber(ARGV[5]), ARGV[6]

local tenant = redis.call('HMGET', key('tenant'), 'max_bytes', 'suspended')
if not tenant[1] then return {'unknown_tenant', '0'} end
if redis.call('EXISTS', key('message', message_id)) == 0 then
  if tenant[2] == '1' then return {'suspended', '0'} end
  if expires_at and expires_at <= NOW then return {'expired', '0'} end
  if size > tonumber(tenant[1]) then return {'too_large', '0'} end
  local bytes = tonumber(redis.call('HGET', key('counters'), 'bytes') or 0)
  if bytes + size > tonumber(tenant[1]) then return {'overloaded', '0'} end
end
local status, accepted_at = accept(message_id, digest, envelope, size)
if status == 'accepted' and answers ~= '' then redis.call('HSET', key('message', message_id), 'answers', answers) end
if status == 'accepted' and ARGV[7] == '1' then redis.call('HSET', key('message', message_id), 'operator', 1) end
return {status, accepted_at}
