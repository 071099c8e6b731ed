-- Takes back leases of a suspended tenant that do not end by themselves: their workers learn of it at the next renewal
-- and cut their turns. Their fates stay open. Some at a time.
-- KEYS: the tenant's root
-- ARGV: limit
-- RETURNS: how many leases are left, or -1 where the tenant is not suspended
if redis.call('HGET', key('tenant'), 'suspended') ~= '1' then return -1 end
local running = redis.call('ZRANGE', key('leases'), 0, tonumber(ARGV[1]) - 1)
for _, agent in ipairs(running) do
  local delivery = string.match(redis.call('HGET', key('holders'), agent) or '', '^%d+|([^|]*)|')
  free(agent)
  if delivery then put_back(delivery, agent, 'recovered', 0) end
  refresh(agent)
end
return redis.call('ZCARD', key('leases'))
