-- Makes a tenant, field by field where it has none yet: a registration that was cut is made whole by the next.
-- KEYS: the tenant's root
-- ARGV: fields... (each: name value)
-- RETURNS: 1, or 0 where a tenant of this name is on its way out
if redis.call('HEXISTS', key('tenant'), 'leaving') == 1 then return 0 end
for i = 1, #ARGV, 2 do
  redis.call('HSETNX', key('tenant'), ARGV[i], ARGV[i + 1])
end
return 1
