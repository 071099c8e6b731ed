-- Claims a drain for one pool that can take more than the process that looked has room for.
-- KEYS: the tenant's root
-- ARGV: pool seed
-- RETURNS: 1
redis.call('HSET', key('rung'), ARGV[1], ARGV[2] .. '|' .. digits(NOW))
return 1
