-- Looks after one tenant: promotes what is due, takes back overdue leases, ends what has expired, purges what has
-- ended long ago and its events, and claims drains. Bounded: what is left shows in next_look_ms.
-- KEYS: the tenant's root
-- ARGV: seed overflow_ms
-- RETURNS: {next_look_ms, {{pool, job id, age_ms}...}, {message id...}, pools to ring...}; the first kind are claims
--   older than overflow_ms, for the caller to check against arq; the second, gatherings to close
though_full()
if not registered() then return {'0', {}, {}} end
local seed, overflow_ms = ARGV[1], tonumber(ARGV[2])

local function purge(limit)
  local old = redis.call('ZRANGEBYSCORE', key('ended'), '-inf', digits(NOW), 'LIMIT', 0, limit)
  for _, message in ipairs(old) do
    local deliveries = tonumber(redis.call('HGET', key('message', message), 'deliveries') or 0)
    for number = 1, deliveries do
      redis.call('DEL', key('delivery', message .. ':' .. number))
    end
    redis.call('DEL', key('message', message))
    redis.call('ZREM', key('messages'), message)
    redis.call('ZREM', key('ended'), message)
    redis.call('ZREM', key('bulks'), message)
    redis.call('ZREM', key('gathers'), message)
  end
  return #old
end

-- Whoever writes an event drops whole blocks of old ones; a tenant where nothing happens any more has nobody to.
local function trim_events(limit)
  local oldest_kept = NOW - KEPT_MS
  local old = redis.call('XRANGE', key('events'), '-', digits(oldest_kept - 1), 'COUNT', limit)
  if #old == 0 then return end
  if #old == limit then redis.call('XTRIM', key('events'), 'MINID', '~', digits(oldest_kept)) end
  for _, one in ipairs(old) do redis.call('XDEL', key('events'), one[1]) end
end

promote_due(PER_STEP)
reap_leases(PER_STEP)
expire_overdue(PER_STEP)
purge(PER_STEP)
trim_events(PER_STEP)

local claims = {}
local rung = redis.call('HGETALL', key('rung'))
for i = 1, #rung, 2 do
  local job, since = string.match(rung[i + 1], '^(.*)|(%d+)$')
  local age = NOW - tonumber(since)
  if age > overflow_ms then claims[#claims + 1] = {rung[i], job, digits(age)} end
end
-- Work whose own pool does not come for it may be taken by the pool that takes everything.
if #claims > 0 then
  for rank = 1, 4 do
    if redis.call('ZCARD', key('ready', RANKS[rank])) > 0 then POOL_OF_RANK[rank] = OVERFLOW_POOL end
  end
end
local pools = ring_up(seed)
local gathers = redis.call('ZRANGEBYSCORE', key('gathers'), '-inf', digits(NOW), 'LIMIT', 0, PER_STEP)
return {digits(next_look()), claims, gathers, unpack(pools)}
