-- Makes one dispatcher the owner of the tenant's stream, or renews it: order on the stream stays order in the
-- mailboxes.
-- KEYS: the tenant's root
-- ARGV: owner lease_ms
-- RETURNS: 1 where the caller owns the stream now, 0 where another does
though_full()
if not registered() then return 0 end
local owner, lease_ms = ARGV[1], ARGV[2]

local holder = redis.call('GET', key('dispatcher'))
if holder and holder ~= owner then return 0 end
redis.call('SET', key('dispatcher'), owner, 'PX', lease_ms)
return 1
