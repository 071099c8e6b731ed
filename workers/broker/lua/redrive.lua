-- Puts one dead letter back where it can be delivered: a delivery into its mailbox, under its old priority and a new
-- arrival, with nothing held against it; what was refused before it had a mailbox onto the stream, as a new entry.
-- Only the letter decides: whoever comes second finds none.
-- KEYS: the tenant's root
-- ARGV: entry_id ttl_ms
-- RETURNS: {status, next_look_ms}; status is redriven, gone, expired (nothing was changed: give a ttl), full (the
--   tenant's bytes are used up) or conflict (its id has become another message's, or it is not at its end);
--   next_look_ms is now where it can go and nobody was rung
if not registered() then return {'gone', '0'} end
local entry_id, ttl = ARGV[1], tonumber(ARGV[2])

local dead = read_letter(entry_id)
if not dead then return {'gone', '0'} end
local message, delivery = dead.message, dead.delivery
local known = redis.call('HMGET', key('message', message), 'state', 'size', 'digest')

local function fits()
  local bytes = tonumber(redis.call('HGET', key('counters'), 'bytes') or 0)
  local room = tonumber(redis.call('HGET', key('tenant'), 'max_bytes') or 0)
  return bytes == 0 or bytes + tonumber(known[2] or 0) <= room
end

-- What was never in a mailbox. Where the sender's publish was counted, its record goes back to that; else the entry
-- is as new, and the dispatcher makes its record, under the id that it carries or one made of the new entry's.
local function to_the_stream()
  local record = key('message', message)
  if known[1] ~= 'refused' then return 'conflict' end
  if known[3] and not fits() then return 'full' end
  local entry = redis.call('XADD', key('tasks'), '*', 'message', dead.raw)
  drop_letter(entry_id, message)
  count('refused', -1)
  if known[3] then
    event(message, '', '', 'accepted', 'redriven')
    redis.call('HSET', record, 'state', 'accepted', 'entry', entry)
    redis.call('HDEL', record, 'cause', 'detail', 'deliveries', 'ended_at', 'acks')
    count('accepted', 1)
    count('bytes', tonumber(known[2] or 0))
  else
    redis.call('DEL', record)
    redis.call('ZREM', key('messages'), message)
  end
  return 'redriven'
end

local function reopen()
  local record = key('message', message)
  redis.call('HINCRBY', record, 'open', 1)
  tally(message, dead.state, -1)
  if known[1] == 'ended' then
    redis.call('HSET', record, 'state', 'open')
    redis.call('HDEL', record, 'ended_at', 'acks')
    redis.call('ZREM', key('ended'), message)
    count('bytes', tonumber(known[2] or 0))
  end
end

local function to_the_mailbox()
  local record = key('delivery', delivery)
  local one = redis.call('HMGET', record, 'state', 'agent', 'score', 'epoch', 'history')
  if not known[1] or one[1] ~= dead.state then return 'conflict' end
  local expires_at = ttl and NOW + ttl or expires_of(delivery)
  if expires_at and expires_at <= NOW then return 'expired' end
  if known[1] == 'ended' and not fits() then return 'full' end

  local score = digits(math.floor(tonumber(one[3]) / RANK_WIDTH) * RANK_WIDTH + arrivals(1))
  redis.call('HSET', record, 'state', 'waiting', 'cause', 'redriven', 'detail', '', 'score', score, 'attempt', 0,
    'epoch', tonumber(one[4] or 1) + 1, 'history', history_with(one[5], 'waiting', 'redriven'))
  redis.call('HDEL', record, 'crashes', 'fate', 'opened_at', 'run', 'delivered_at', 'ended_at', 'due')
  if ttl then redis.call('HSET', record, 'expires_at', digits(expires_at)) end
  if expires_at then redis.call('ZADD', key('expiries'), digits(expires_at), delivery) end
  drop_letter(entry_id, message)
  reopen()
  count(one[1], -1)
  count('waiting', 1)
  event(message, delivery, one[2], 'waiting', 'redriven')
  redis.call('ZADD', key('mailbox', one[2]), score, delivery)
  refresh(one[2])
  return 'redriven'
end

local status
if delivery == '' then status = to_the_stream() else status = to_the_mailbox() end
if status ~= 'redriven' then return {status, '0'} end
return {status, digits(next_look_or_now())}
