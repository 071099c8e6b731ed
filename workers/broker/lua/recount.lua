-- Mends one counter: by what was found to be missing or too much, so that what goes on meanwhile is not lost.
-- KEYS: the tenant's root
-- ARGV: counter drift
-- RETURNS: what it is now
if not registered() then return 0 end
count(ARGV[1], ARGV[2])
return redis.call('HGET', key('counters'), ARGV[1])
