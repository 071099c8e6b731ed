-- Claims a drain for one pool that can take more than the process that looked has room for.
-- KEYS: the tenant's root
-- ARGV: pool seed
-- RETURNS: 1, or 0 where the tenant is not there
if not registered() then return 0 end
redis.call('HSET', key('rung'), ARGV[1], ARGV[2] .. '|' .. digits(NOW))
return 1
