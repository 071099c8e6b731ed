-- Parks an agent with its mailbox, for a person: a running turn comes to its end, no further one begins. Once parked,
-- who did it first and why stands.
-- KEYS: the tenant's root
-- ARGV: agent by why
-- RETURNS: parked, already or gone (the tenant is not there)
if not registered() then return 'gone' end
local agent = ARGV[1]
if redis.call('HEXISTS', key('parked'), agent) == 1 then return 'already' end
park(agent, ARGV[2], ARGV[3])
refresh(agent)
return 'parked'
