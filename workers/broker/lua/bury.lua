-- Drops the register entry of a tenant that has left, the last of its keys: a new one of its name may come.
-- KEYS: the tenant's root
-- ARGV: mark
-- RETURNS: 1, or 0 where the mark does not stand
if redis.call('HGET', key('tenant'), 'leaving') ~= ARGV[1] then return 0 end
redis.call('DEL', key('tenant'))
return 1
