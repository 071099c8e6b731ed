-- Takes back what a process held that is surely dead, as if its leases had run out: fates stay open, the crash counts.
-- And gives its stream up. Some at a time, by cursor.
-- KEYS: the tenant's root
-- ARGV: owner cursor seed
-- RETURNS: {the next cursor, 0 at the end; how many leases were taken back; 1 where it owned the stream; next_look_ms;
--   pools to ring...}
though_full()
if not registered() then return {'0', 0, 0, '0'} end
local owner, cursor, seed = ARGV[1], ARGV[2], ARGV[3]

local stream, leases = 0, 0
if redis.call('GET', key('dispatcher')) == owner then stream = redis.call('DEL', key('dispatcher')) end
local step = redis.call('HSCAN', key('holders'), cursor, 'COUNT', PER_STEP)
for i = 1, #step[2], 2 do
  local agent, holder = step[2][i], step[2][i + 1]
  -- A walk may show the same one twice.
  if string.match(holder, '^%d+|[^|]*|(.*)$') == owner and redis.call('HGET', key('holders'), agent) == holder then
    take_back(agent)
    leases = leases + 1
  end
end
local pools = ring_up(seed)
return {step[1], leases, stream, digits(next_look()), unpack(pools)}
