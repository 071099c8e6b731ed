-- Lifts what rate windows hold, after the limits changed: the next take looks at the windows anew. Holds with other
-- causes (a busy agent, a quota of the server's own) stay. A step at a time, by cursor.
-- KEYS: the tenant's root
-- ARGV: cursor
-- RETURNS: {the next cursor, 0 at the end; how many holds were lifted}
if not registered() then return {'0', 0} end
local cursor, lifted = ARGV[1], 0
local step = redis.call('HSCAN', key('holds'), cursor, 'COUNT', PER_STEP)
for i = 1, #step[2], 2 do
  local who = step[2][i]
  if string.match(step[2][i + 1], '^%d+|rate_') then
    redis.call('HDEL', key('holds'), who)
    if string.sub(who, 1, 6) == 'agent-' then refresh(who) end
    lifted = lifted + 1
  end
end
return {step[1], lifted}
