-- Gives the tenant's stream up, so that the next dispatcher need not wait for the lease to run out.
-- KEYS: the tenant's root
-- ARGV: owner
-- RETURNS: 1 where the caller owned it, 0 where it did not
if not registered() then return 0 end
if redis.call('GET', key('dispatcher')) ~= ARGV[1] then return 0 end
redis.call('DEL', key('dispatcher'))
return 1
