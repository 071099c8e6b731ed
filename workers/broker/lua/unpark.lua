-- Lets a parked agent go on, with nothing held against it: what a shorter hold said before is found out anew by its
-- next turn.
-- KEYS: the tenant's root
-- ARGV: agent
-- RETURNS: {status, next_look_ms}; status is unparked or not_parked; next_look_ms is now where it can go and nobody
--   was rung
if not registered() then return {'not_parked', '0'} end
local agent = ARGV[1]
if redis.call('HDEL', key('parked'), agent) == 0 then return {'not_parked', '0'} end
redis.call('HDEL', key('holds'), agent)
redis.call('HDEL', key('failures'), agent)
refresh(agent)
return {'unparked', digits(next_look_or_now())}
