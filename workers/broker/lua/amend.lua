-- Changes fields of a tenant, if it is there: whoever comes late must not bring a deleted one back.
-- KEYS: the tenant's root
-- ARGV: fields... (each: name value)
-- RETURNS: 1, or 0 where the tenant is not there
if not registered() then return 0 end
for i = 1, #ARGV, 2 do
  redis.call('HSET', key('tenant'), ARGV[i], ARGV[i + 1])
end
return 1
