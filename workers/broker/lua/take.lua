-- Takes a batch for one drain: promotes what is due, takes back what is overdue, looks at the pool's priorities
-- in order (one that has waited past its bound comes first), skips agents under a lease, ends what has expired,
-- charges the rate windows and gives leases. What cannot go now is put where its time will find it.
-- KEYS: the tenant's root
-- ARGV: owner pool limit lease_ms
-- RETURNS: {now_ms, more, next_look_ms, {id, agent, token, attempt, epoch, fate_open, opened_at_ms, run_id,
--   expires_at_ms, accepted_at_ms, envelope, incarnation}...}; more is 1 where the pool could take more at once; next_look_ms
--   is not after now_ms where another pool could, and was not rung
if not registered() then return {digits(NOW), 0, '0'} end
unless_full()
local owner, pool, limit, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local order = RANKS_OF_POOL[pool]
local tenant = redis.call('HMGET', key('tenant'), 'suspended', 'in_flight', 'per_minute', 'team_per_minute',
  'agent_per_minute', 'incarnation')
local in_flight, per_minute = tonumber(tenant[2] or 0), tonumber(tenant[3] or 0)
local team_per_minute, agent_per_minute = tonumber(tenant[4] or 0), tonumber(tenant[5] or 0)

-- The first of those ready at a rank, read again only where this script has changed it.
local firsts = {}
local function first_ready(rank)
  if not firsts[rank] or ready_changed[rank] then
    firsts[rank] = redis.call('ZRANGE', key('ready', RANKS[rank + 1]), 0, 0, 'WITHSCORES')
    ready_changed[rank] = nil
  end
  return firsts[rank]
end

-- The ready agent to look at next, or nil.
local function next_agent()
  local best, overdue
  for _, rank in ipairs(order) do
    local first = first_ready(rank)
    if first[1] then
      best = best or first[1]
      local arrival = tonumber(first[2])
      if rank > 0 and NOW_US - arrival > AGING_MS[rank + 1] * 1000 and (not overdue or arrival < overdue) then
        best, overdue = first[1], arrival
      end
    end
  end
  return best
end

-- When the window opens for one more: 0 for now. Strict: no window of RATE_WINDOW_MS ever holds more than allowed.
local function opens_at(scope, allowed)
  local oldest = redis.call('LINDEX', key('rate', scope), allowed - 1)
  local opens = oldest and tonumber(oldest) + RATE_WINDOW_MS + 1 or 0
  return opens > NOW and opens or 0
end

local charged = {}
local function charge(scope, allowed)
  local held = redis.call('LPUSH', key('rate', scope), digits(NOW))
  if held > allowed then redis.call('LTRIM', key('rate', scope), 0, allowed - 1) end
  -- Every charge of this script is of the same moment.
  if not charged[scope] then redis.call('PEXPIRE', key('rate', scope), RATE_WINDOW_MS + 1000) end
  charged[scope] = true
end

-- Whether it has cost so many workers that the next one it is taken by may be its last. Such ones go one at a time:
-- what was only beside the poison when its worker died must not be taken for it.
local function is_suspect(crashes)
  return tonumber(crashes or 0) >= math.max(1, MAX_CRASHES - 1)
end

local function another_suspect_runs(delivery)
  local other = redis.call('GET', key('suspect'))
  return other and other ~= delivery and redis.call('HGET', key('delivery', other), 'state') == 'running'
end

-- `known` and `message`: as `try` has read them.
local function lease(agent, delivery, teams, expires_at, known, message)
  local record = key('delivery', delivery)
  -- By the clock, so that none is given again where a failover lost the count of the last ones.
  local token = digits(math.max(tonumber(redis.call('HGET', key('counters'), 'fence') or 0) + 1, NOW_US))
  redis.call('HSET', key('counters'), 'fence', token)
  local attempt, epoch = tonumber(known[5] or 0) + 1, tonumber(known[6] or 1)
  local opened_at = known[1] == 'open' and known[7] or digits(NOW)
  redis.call('HSET', record, 'state', 'running', 'cause', '', 'token', token, 'attempt', attempt, 'epoch', epoch,
    'fate', 'open', 'opened_at', opened_at, 'history', history_with(known[9], 'running', ''))
  if is_suspect(known[4]) then redis.call('SET', key('suspect'), delivery) end
  redis.call('HDEL', record, 'due')
  redis.call('ZREM', key('mailbox', agent), delivery)
  redis.call('ZADD', key('leases'), digits(NOW + lease_ms), agent)
  redis.call('HSET', key('holders'), agent, token .. '|' .. delivery .. '|' .. owner)
  count('waiting', -1)
  count('running', 1)
  event(message_of(delivery), delivery, agent, 'running', '')
  charge('tenant', per_minute)
  charge('agent:' .. agent, agent_per_minute)
  for team in string.gmatch(teams, '[^,]+') do charge('team:' .. team, team_per_minute) end
  refresh(agent, true)
  return {delivery, agent, token, attempt, epoch, known[1] == 'open' and 1 or 0, opened_at, known[8] or '',
    expires_at and digits(expires_at) or '', message[4] or '0', message[3] or '', tenant[6] or '',
    known[4] or 0}
end

-- Out of the mailbox until its message is resumed.
local function set_aside(delivery, agent)
  local record = key('delivery', delivery)
  redis.call('ZREM', key('mailbox', agent), delivery)
  redis.call('ZADD', key('aside', message_of(delivery)), digits(NOW), delivery)
  redis.call('HSET', record, 'cause', 'paused', 'history',
    history_with(redis.call('HGET', record, 'history'), 'waiting', 'paused'))
  event(message_of(delivery), delivery, agent, 'waiting', 'paused')
end

-- Takes the agent's next delivery, or puts the agent where its time will find it.
local function try(agent)
  local delivery, _, _, due = choose(agent)
  if not delivery or due > NOW or held_until(agent) > 0 then
    refresh(agent)
    return nil
  end
  local known = redis.call('HMGET', key('delivery', delivery), 'fate', 'teams', 'expires_at', 'crashes', 'attempt',
    'epoch', 'opened_at', 'run', 'history')
  local message = redis.call('HMGET', key('message', message_of(delivery)), 'expires_at', 'paused', 'envelope',
    'accepted_at')
  local expires_at = tonumber(known[3] or message[1] or '')
  if expires_at and expires_at <= NOW and known[1] ~= 'open' then
    finish(delivery, agent, 'waiting', 'expired', 'ttl', why_late())
    refresh(agent)
    return nil
  end
  if message[2] and known[1] ~= 'open' then
    set_aside(delivery, agent)
    refresh(agent)
    return nil
  end
  if is_suspect(known[4]) and another_suspect_runs(delivery) then
    hold(agent, NOW + SUSPECT_PAUSE_MS, 'suspect')
    redis.call('HSET', key('delivery', delivery), 'cause', 'suspect')
    refresh(agent)
    return nil
  end
  local teams = known[2] or ''
  local opens, cause = opens_at('agent:' .. agent, agent_per_minute), 'rate_agent'
  for team in string.gmatch(teams, '[^,]+') do
    local team_opens = opens_at('team:' .. team, team_per_minute)
    if team_opens > opens then opens, cause = team_opens, 'rate_team' end
  end
  if opens > 0 then
    hold(agent, opens, cause)
    redis.call('HSET', key('delivery', delivery), 'cause', cause)
    refresh(agent)
    return nil
  end
  return lease(agent, delivery, teams, expires_at, known, message)
end

promote_due(PER_STEP)
reap_leases(PER_STEP)
expire_overdue(PER_STEP)

local taken, more = {}, 0
local running = redis.call('ZCARD', key('leases'))
if tenant[1] ~= '1' and held_until('*') == 0 then
  local looked = 0
  while running < in_flight and looked < limit + PER_STEP do
    local agent = next_agent()
    if not agent then break end
    if #taken == limit then more = 1 break end
    local opens = opens_at('tenant', per_minute)
    if opens > 0 then
      hold('*', opens, 'rate_tenant')
      break
    end
    local one = try(agent)
    if one then
      taken[#taken + 1] = one
      running = running + 1
    end
    looked = looked + 1
    if looked == limit + PER_STEP and next_agent() then more = 1 end
  end
end
-- In the same step as the look that found nothing more: whatever comes now rings again.
if more == 0 then redis.call('HDEL', key('rung'), pool) end
return {digits(NOW), more, digits(next_look_or_now()), unpack(taken)}
