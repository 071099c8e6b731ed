-- Deletes what is left under the root of a tenant that has left. Nothing where it has not, or where another of its
-- name has come since: a process that was frozen in the middle must not delete what is the next one's.
-- KEYS: the tenant's root
-- ARGV: mark names... (each: what stands behind the root)
-- RETURNS: how many keys were deleted, or -1 where the mark does not stand
if redis.call('HGET', key('tenant'), 'leaving') ~= ARGV[1] then return -1 end
local deleted = 0
for i = 2, #ARGV do
  if ARGV[i] ~= NAMES.tenant then deleted = deleted + redis.call('UNLINK', ROOT .. ARGV[i]) end
end
return deleted
