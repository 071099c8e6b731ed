-- Renews leases. One that is gone, or another's, is not taken back.
-- KEYS: the tenant's root
-- ARGV: lease_ms pairs...
-- RETURNS: the agents of the pairs (agent, token) whose lease is lost
though_full()
local lease_ms, there, lost = tonumber(ARGV[1]), registered(), {}
for i = 2, #ARGV, 2 do
  local agent, token = ARGV[i], ARGV[i + 1]
  local holder = redis.call('HGET', key('holders'), agent) or ''
  if there and string.match(holder, '^(%d+)|') == token then
    redis.call('ZADD', key('leases'), digits(NOW + lease_ms), agent)
  else
    lost[#lost + 1] = agent
  end
end
return lost
