-- Writes one team's record, or drops it, where it is still what the caller read: of two changes at once the second
-- reads again, and neither is lost.
-- KEYS: the tenant's root
-- ARGV: name before after
-- RETURNS: written, changed (the record is not `before` any more; nothing was done) or absent (no such tenant)
if not registered() then return 'absent' end
local name, before, after = ARGV[1], ARGV[2], ARGV[3]
if (redis.call('HGET', key('teams'), name) or '') ~= before then return 'changed' end
if after == '' then
  redis.call('HDEL', key('teams'), name)
else
  redis.call('HSET', key('teams'), name, after)
end
return 'written'
