-- Stores a tenant's list of agents in the place of the last one: never a part of it, and never for a tenant that is
-- not registered, so that a list that was under way brings back no key of a deleted one.
-- KEYS: the tenant's root
-- ARGV: age_ms records... (each: agent record)
-- RETURNS: when the list was read, or 0 where there is no such tenant
if not registered() then return 0 end
-- Lua's stack takes some thousand values at once.
local AT_ONCE = 1000
local read_at = digits(NOW - tonumber(ARGV[1]))
redis.call('UNLINK', key('agents'))
redis.call('HSET', key('agents'), '*', read_at)
for first = 2, #ARGV, AT_ONCE do
  redis.call('HSET', key('agents'), unpack(ARGV, first, math.min(first + AT_ONCE - 1, #ARGV)))
end
return read_at
