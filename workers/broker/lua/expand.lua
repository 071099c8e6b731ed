-- Makes the next deliveries of a message whose recipients were taken down; with the last one the entry leaves the
-- stream. Arrivals were set aside for all of them, so that what was published later stands behind. What its sender
-- has cancelled meanwhile is made, and cancelled.
-- KEYS: the tenant's root
-- ARGV: owner entry_id message_id limit seed
-- RETURNS: {status, how many are left, next_look_ms, pools to ring...}; status is moved, gone or lost
if not registered() then return {'lost', 0, '0'} end
unless_full()
local owner, entry_id, message_id, limit, seed = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local record = key('message', message_id)

if redis.call('GET', key('dispatcher')) ~= owner then return {'lost', 0, '0'} end
local known = redis.call('HMGET', record, 'state', 'deliveries', 'expanded', 'rank', 'arrival', 'not_before',
  'expires_at', 'cancelled')
if known[1] ~= 'expanding' then return {'gone', 0, '0'} end

local expanded, total = tonumber(known[3]), tonumber(known[2])
local popped = redis.call('LPOP', key('snapshot', message_id), limit) or {}
for _, recipient in ipairs(popped) do
  local agent, teams = string.match(recipient, '^([^|]*)|(.*)$')
  expanded = expanded + 1
  count('accepted', -1)
  local arrival = tonumber(known[5]) + expanded - 1
  local delivery = deliver(message_id, expanded, agent, teams, tonumber(known[4]), arrival, tonumber(known[6]) or 0,
    known[7] or '')
  if known[8] then
    finish(delivery, agent, 'waiting', 'cancelled', 'by_sender', '')
    refresh(agent)
  end
end
redis.call('HSET', record, 'expanded', expanded)
if expanded >= total then
  count('expanding', -1)
  redis.call('HDEL', record, 'expanded', 'rank', 'arrival', 'not_before', 'cancelled')
  redis.call('XDEL', key('tasks'), entry_id)
  if redis.call('HGET', record, 'open') ~= '0' then redis.call('HSET', record, 'state', 'open') end
end
return {'moved', total - expanded, digits(next_look()), unpack(ring_up(seed))}
