-- The mark: from this step on the tenant is gone. Only its register entry stays, without its limits, as the proof
-- that what is under its root may be deleted (lua/clear.lua); every other script finds no tenant. Not while a turn runs
-- or could begin.
-- KEYS: the tenant's root
-- ARGV: mark
-- RETURNS: {status, mark, marked_at_ms}; status is left (now or before: the mark is the one that stands), busy
--   (a turn runs), active (it is not suspended) or absent
local known = redis.call('HMGET', key('tenant'), 'leaving', 'marked_at_ms', 'suspended')
if known[1] then return {'left', known[1], known[2]} end
if redis.call('EXISTS', key('tenant')) == 0 then return {'absent', ARGV[1], '0'} end
if known[3] ~= '1' then return {'active', ARGV[1], '0'} end
if redis.call('ZCARD', key('leases')) > 0 then return {'busy', ARGV[1], '0'} end
redis.call('DEL', key('tenant'))
redis.call('HSET', key('tenant'), 'leaving', ARGV[1], 'marked_at_ms', digits(NOW))
return {'left', ARGV[1], digits(NOW)}
