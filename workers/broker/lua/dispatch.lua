-- Moves one entry of the stream into the mailboxes of its recipients: ledger entries, mailboxes, ready marks and
-- the deletion of the entry are one step, so that a crash leaves it in one place or the other, never both or neither.
-- KEYS: the tenant's root
-- ARGV: owner entry_id message_id digest envelope size rank not_before_ms expires_at_ms seed recipients... (each: agent id, its teams separated by commas)
-- RETURNS: {status, next_look_ms, pools to ring...}; status is moved, duplicate, conflict, gone, full or lost
local owner, entry_id, message_id, digest, envelope = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local size, rank, not_before, expires_at, seed = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], ARGV[9], ARGV[10]

if redis.call('GET', key('dispatcher')) ~= owner then return {'lost', 0} end
if #redis.call('XRANGE', key('tasks'), entry_id, entry_id) == 0 then return {'gone', 0} end
-- Once one did not fit, smaller ones behind it must not overtake it.
if held_until('>') > 0 then return {'full', 0} end

local record = key('message', message_id)
local known = redis.call('HMGET', record, 'digest', 'entry', 'state', 'size')
if known[1] and (known[2] ~= entry_id or known[3] ~= 'accepted') then
  if known[1] ~= digest then return {'conflict', 0} end
  redis.call('XDEL', key('tasks'), entry_id)
  return {'duplicate', 0}
end

local accepted_at = string.match(entry_id, '^(%d+)')
if known[1] then
  count('accepted', -1)
  -- What was counted at the publish may differ from what the dispatcher counts.
  count('bytes', size - tonumber(known[4] or 0))
else
  local bytes = tonumber(redis.call('HGET', key('counters'), 'bytes') or 0)
  local room = tonumber(redis.call('HGET', key('tenant'), 'max_bytes') or 0)
  if bytes > 0 and bytes + size > room then
    hold('>', NOW + FULL_PAUSE_MS, 'full')
    return {'full', 0}
  end
  count('bytes', size)
  redis.call('ZADD', key('messages'), accepted_at, message_id)
  event(message_id, '', '', 'accepted', '')
end
local recipients = (#ARGV - 10) / 2
redis.call('HSET', record, 'digest', digest, 'accepted_at', accepted_at, 'entry', entry_id, 'state', 'open',
  'size', size, 'envelope', envelope, 'deliveries', recipients, 'open', recipients, 'expires_at', expires_at)

local due = tonumber(not_before) or 0
local cause = due > NOW and 'not_before' or ''
for number = 1, recipients do
  local agent, teams = ARGV[9 + 2 * number], ARGV[10 + 2 * number]
  local delivery = message_id .. ':' .. number
  local arrival = math.max(NOW_US, tonumber(redis.call('HGET', key('counters'), 'arrival') or 0) + 1)
  redis.call('HSET', key('counters'), 'arrival', digits(arrival))
  local score = digits(rank * RANK_WIDTH + arrival)
  redis.call('HSET', key('delivery', delivery), 'state', 'waiting', 'agent', agent, 'score', score, 'cause', cause,
    'history', history_with('', 'waiting', cause))
  if teams ~= '' then redis.call('HSET', key('delivery', delivery), 'teams', teams) end
  count('waiting', 1)
  event(message_id, delivery, agent, 'waiting', cause)
  if expires_at ~= '' then
    redis.call('ZADD', key('expiries'), expires_at, delivery)
  end
  if due > NOW then
    redis.call('HSET', key('delivery', delivery), 'due', digits(due))
    redis.call('ZADD', key('later'), digits(due), 'd:' .. delivery)
  else
    redis.call('ZADD', key('mailbox', agent), score, delivery)
    refresh(agent)
  end
end
redis.call('XDEL', key('tasks'), entry_id)
return {'moved', digits(next_look()), unpack(ring_up(seed))}
