-- What the scripts share: names, numbers, and the few ways in which a delivery changes its state.
-- Stands at the head of every script, behind the table of names (keys.py), the rules (scripts.py) and clock.lua.
--
-- A mailbox score is rank * RANK_WIDTH + arrival in microseconds: order by priority, then arrival, and the
-- arrival can be read back. 3 * RANK_WIDTH + today stays below 2^53, where doubles stop being exact, until 2036.

local ROOT = KEYS[1]
local RANK_WIDTH = 2.1e15
local NOW_US = now_us()
local NOW = math.floor(NOW_US / 1000)
local rings = {}
-- The agents that this script parked.
local parked_now = {}
-- The ranks at which this script made an agent ready, or no longer ready.
local ready_changed = {}

local function key(name, id)
  return ROOT .. NAMES[name] .. (id or '')
end

-- Lua prints large numbers as 1.7e+15; Redis wants digits.
local function digits(number)
  return string.format('%.0f', number)
end

-- Whether the tenant is there: registered, and not on its way out (lua/leave.lua). Where it is not, no script writes
-- anything, however late it comes.
local function registered()
  return redis.call('HEXISTS', key('tenant'), 'max_bytes') == 1
end

-- A full Redis refuses a script's first write where that one could grow, and none behind it. What finishes or frees
-- says first that it goes on; what begins something says that it wants room, and is refused whole.
local function though_full()
  redis.call('ZREM', key('leases'), '')
end

local function unless_full()
  redis.call('HSETNX', key('tenant'), 'max_bytes', '')
end

local function count(name, by)
  redis.call('HINCRBY', key('counters'), name, by)
end

local function event(message, delivery, agent, state, cause)
  redis.call('XADD', key('events'), 'MINID', '~', digits(NOW - KEPT_MS), '*',
    'message', message, 'delivery', delivery, 'agent', agent, 'state', state, 'cause', cause)
end

-- The delivery's own story, one line a change, the oldest but the first dropped when it grows long.
local function history_with(history, state, cause)
  history = (history or '') .. digits(NOW) .. '|' .. state .. '|' .. cause .. '\n'
  if #history > HISTORY_BYTES then
    history = string.gsub(history, '^([^\n]*\n)[^\n]*\n', '%1', 1)
  end
  return history
end

local function message_of(delivery)
  return string.match(delivery, '^(.*):%d+$')
end

local function held_until(who)
  local held = redis.call('HGET', key('holds'), who)
  if not held then return 0, '' end
  local until_ms, cause = string.match(held, '^(%d+)|(.*)$')
  until_ms = tonumber(until_ms)
  if until_ms <= NOW then
    redis.call('HDEL', key('holds'), who)
    return 0, ''
  end
  return until_ms, cause
end

-- A hold keeps an agent (or, as `*`, the whole tenant) from being taken until a time. A longer one stands.
local function hold(who, until_ms, cause)
  if until_ms > held_until(who) then
    redis.call('HSET', key('holds'), who, digits(until_ms) .. '|' .. cause)
  end
end

-- What to say of a delivery whose time ran out in the mailbox: not silently where the server kept it there.
local function why_late()
  return held_until('~') > 0 and 'the Letta server was away' or ''
end

-- Parks an agent with its mailbox: no further turn of it begins until somebody unparks it. The first reason stands.
local function park(agent, by, why)
  if redis.call('HSETNX', key('parked'), agent, digits(NOW) .. '|' .. by .. '|' .. why) == 0 then return end
  hold(agent, PARKED_MS, 'parked')
  parked_now[agent] = true
end

local function due_of(delivery)
  return tonumber(redis.call('HGET', key('delivery', delivery), 'due') or 0) or 0
end

-- The delivery an agent would get next: its most urgent, oldest one; but a less urgent one that has waited
-- past its bound goes first. Returns delivery, rank, arrival, due; nil where the mailbox is empty.
local function choose(agent)
  local box = key('mailbox', agent)
  local first = redis.call('ZRANGE', box, 0, 0, 'WITHSCORES')
  if not first[1] then return nil end
  local score = tonumber(first[2])
  local rank = math.floor(score / RANK_WIDTH)
  local best, best_rank, best_arrival, best_due = first[1], rank, score - rank * RANK_WIDTH, nil
  if rank < 3 and redis.call('ZCARD', box) > 1 then
    local oldest
    for lower = rank + 1, 3 do
      local low, high = digits(lower * RANK_WIDTH), '(' .. digits((lower + 1) * RANK_WIDTH)
      local other = redis.call('ZRANGEBYSCORE', box, low, high, 'WITHSCORES', 'LIMIT', 0, 1)
      if other[1] then
        local arrival = tonumber(other[2]) - lower * RANK_WIDTH
        local overdue = NOW_US - arrival > AGING_MS[lower + 1] * 1000
        if overdue and (not oldest or arrival < oldest) and due_of(other[1]) <= NOW then
          oldest = arrival
          best, best_rank, best_arrival, best_due = other[1], lower, arrival, 0
        end
      end
    end
  end
  return best, best_rank, best_arrival, best_due or due_of(best)
end

-- Puts an agent where it belongs after any change: ready, later, or nowhere. `leased`: the caller knows that it is.
local function refresh(agent, leased)
  local member = 'a:' .. agent
  local delivery, rank, arrival, due
  if not leased and not redis.call('HGET', key('holders'), agent) then
    delivery, rank, arrival, due = choose(agent)
  end
  local wait = 0
  if delivery then
    wait = math.max(due, (held_until(agent)))
  end
  for other = 0, 3 do
    if not delivery or wait > NOW or other ~= rank then
      if redis.call('ZREM', key('ready', RANKS[other + 1]), agent) == 1 then ready_changed[other] = true end
    end
  end
  if not delivery then
    redis.call('ZREM', key('later'), member)
  elseif wait > NOW then
    redis.call('ZADD', key('later'), digits(wait), member)
  else
    redis.call('ZREM', key('later'), member)
    redis.call('ZADD', key('ready', RANKS[rank + 1]), digits(arrival), agent)
    ready_changed[rank] = true
  end
end

-- Whether the tenant as a whole may run one more turn, rates aside.
local function has_room()
  local tenant = redis.call('HMGET', key('tenant'), 'suspended', 'in_flight')
  return tenant[1] ~= '1' and held_until('*') == 0
    and redis.call('ZCARD', key('leases')) < tonumber(tenant[2] or 0)
end

-- Claims a drain for every pool that has something to do and none on its way. `seed` names the arq job.
-- No seed: the caller is about to take again by itself.
local function ring_up(seed)
  if seed == '' or not has_room() then return rings end
  for rank = 1, 4 do
    if redis.call('ZCARD', key('ready', RANKS[rank])) > 0 then
      local pool = POOL_OF_RANK[rank]
      if redis.call('HSETNX', key('rung'), pool, seed .. '|' .. digits(NOW)) == 1 then
        rings[#rings + 1] = pool
      end
    end
  end
  return rings
end

-- When somebody should look at this tenant again: 0 for never.
local function next_look()
  local soonest = 0
  local function consider(at)
    -- What is parked comes back when somebody says so, not at a time.
    if at and at > 0 and at < PARKED_MS and (soonest == 0 or at < soonest) then soonest = at end
  end
  for _, name in ipairs({'later', 'leases', 'expiries', 'ended', 'gathers'}) do
    local first = redis.call('ZRANGE', key(name), 0, 0, 'WITHSCORES')
    consider(tonumber(first[2]))
  end
  consider((held_until('*')))
  return soonest
end

-- The same where the script made something ready and cannot ring: now, if nobody is on the way for it.
local function next_look_or_now()
  local room = has_room()
  for rank = 1, 4 do
    if room and redis.call('ZCARD', key('ready', RANKS[rank])) > 0
        and redis.call('HEXISTS', key('rung'), POOL_OF_RANK[rank]) == 0 then
      local soonest = next_look()
      return soonest > 0 and math.min(soonest, NOW) or NOW
    end
  end
  return next_look()
end

-- The message is over when its last delivery is. What has a dead letter is kept; the rest is purged in time.
local function message_ended(message)
  local record = key('message', message)
  local known = redis.call('HMGET', record, 'size', 'letters')
  count('bytes', -tonumber(known[1] or 0))
  redis.call('HSET', record, 'state', 'ended', 'ended_at', digits(NOW))
  if not known[2] then
    redis.call('ZADD', key('ended'), digits(NOW + KEPT_MS), message)
  end
end

-- No turn starts after this time, in milliseconds; nil: never. What was redriven may have a time of its own.
local function expires_of(delivery)
  return tonumber(redis.call('HGET', key('delivery', delivery), 'expires_at')
    or redis.call('HGET', key('message', message_of(delivery)), 'expires_at') or '')
end

local function letter(message, delivery, state, cause, detail, attempts, raw)
  redis.call('HINCRBY', key('message', message), 'letters', 1)
  redis.call('XADD', key('dead'), '*', 'message', message, 'delivery', delivery, 'state', state,
    'cause', cause, 'detail', detail, 'attempts', attempts, 'raw', raw)
end

-- A dead letter as a table, or nil where there is none under this id.
local function read_letter(id)
  local entry = redis.call('XRANGE', key('dead'), id, id)[1]
  if not entry then return nil end
  local fields, found = entry[2], {}
  for i = 1, #fields, 2 do found[fields[i]] = fields[i + 1] end
  return found
end

local function drop_letter(id, message)
  local record = key('message', message)
  redis.call('XDEL', key('dead'), id)
  if redis.call('HINCRBY', record, 'letters', -1) <= 0 then redis.call('HDEL', record, 'letters') end
end

-- A message to many keeps count of how its deliveries ended, and is looked at once enough replies have come.
local function tally(message, state, by, open)
  local record = key('message', message)
  local known = redis.call('HMGET', record, 'many', 'gather_want', 'gathered_at')
  if not known[1] then return end
  local number = redis.call('HINCRBY', record, 'n_' .. state, by)
  if known[2] and not known[3] and (open == 0 or (state == 'delivered' and number >= tonumber(known[2]))) then
    redis.call('ZADD', key('gathers'), digits(NOW), message)
  end
end

-- Puts a document where readers that are no agents wait for it. `answers` names the place, as `stream|name|...` or
-- `queue|name|...`. What nobody reads goes in time, like the receipts.
local function post(answers, document)
  local kind, name = string.match(answers, '^(%a+)|([^|]*)')
  if kind == 'stream' then
    redis.call('XADD', key('out', name), 'MINID', '~', digits(NOW - KEPT_MS), '*', 'message', document)
  elseif kind == 'queue' then
    redis.call('RPUSH', key('callback', name), document)
    redis.call('PEXPIRE', key('callback', name), digits(KEPT_MS))
  end
end

-- Tells those readers how it ended, whichever way: of a delivery, or of a message that came into no mailbox
-- (schemas/reply.py). Where replies are gathered, only what was gathered is posted.
local function post_end(message, delivery, state, cause, detail)
  local known = redis.call('HMGET', key('message', message), 'answers', 'gather_want')
  if not known[1] or (delivery ~= '' and known[2]) then return end
  local said = {id = message, message_id = message, state = state, detail = detail, at_ms = NOW}
  said.correlation_id = string.match(known[1], '^%a+|[^|]*|(.*)$')
  if cause ~= '' then said.cause = cause end
  if delivery ~= '' then
    local one = redis.call('HMGET', key('delivery', delivery), 'agent', 'run', 'reply', 'stop_reason', 'tokens')
    said.id, said.delivery_id, said.agent, said.run_id = delivery, delivery, one[1], one[2] or nil
    if state == 'delivered' then
      said.text, said.stop_reason, said.total_tokens = one[3], one[4], tonumber(one[5] or 0)
    end
  end
  post(known[1], cjson.encode(said))
end

-- Counts how many messages of an agent ended dead with none delivered in between, and parks it past the bound.
local function note_end(agent, state, why)
  if state == 'delivered' then
    redis.call('HDEL', key('failures'), agent)
  elseif state == 'dead' and redis.call('HINCRBY', key('failures'), agent, 1) >= PARK_AFTER and PARK_AFTER > 0 then
    park(agent, 'worker', why)
  end
end

-- Ends a delivery. The caller has taken it out of whatever held it but the mailbox, and refreshes the agent.
local function finish(delivery, agent, from, state, cause, detail)
  local record, message = key('delivery', delivery), message_of(delivery)
  local known = redis.call('HMGET', record, 'history', 'attempt')
  redis.call('HSET', record, 'state', state, 'cause', cause, 'detail', detail, 'ended_at', digits(NOW),
    'history', history_with(known[1], state, cause))
  redis.call('HDEL', record, 'due')
  redis.call('ZREM', key('mailbox', agent), delivery)
  redis.call('ZREM', key('expiries'), delivery)
  redis.call('ZREM', key('later'), 'd:' .. delivery)
  redis.call('ZREM', key('aside', message), delivery)
  count(from, -1)
  count(state, 1)
  event(message, delivery, agent, state, cause)
  if state == 'dead' or state == 'unknown' or state == 'refused' then
    letter(message, delivery, state, cause, detail, known[2] or 0, '')
  end
  note_end(agent, state, detail)
  post_end(message, delivery, state, cause, detail)
  local open = redis.call('HINCRBY', key('message', message), 'open', -1)
  tally(message, state, 1, open)
  if open == 0 then message_ended(message) end
end

-- Back to the mailbox, in its old place.
local function put_back(delivery, agent, cause, due)
  local record = key('delivery', delivery)
  local known = redis.call('HMGET', record, 'history', 'score')
  redis.call('HSET', record, 'state', 'waiting', 'cause', cause, 'due', digits(due),
    'history', history_with(known[1], 'waiting', cause))
  redis.call('ZADD', key('mailbox', agent), known[2], delivery)
  count('running', -1)
  count('waiting', 1)
  event(message_of(delivery), delivery, agent, 'waiting', cause)
end

local function free(agent)
  redis.call('ZREM', key('leases'), agent)
  redis.call('HDEL', key('holders'), agent)
end

-- Ends waiting deliveries that have expired. One whose call may have reached the server is left for a worker
-- to look at first.
local function expire_overdue(limit)
  local overdue = redis.call('ZRANGEBYSCORE', key('expiries'), '-inf', digits(NOW), 'LIMIT', 0, limit)
  for _, delivery in ipairs(overdue) do
    local known = redis.call('HMGET', key('delivery', delivery), 'state', 'agent', 'fate')
    if known[1] == 'waiting' and known[3] ~= 'open' then
      finish(delivery, known[2], 'waiting', 'expired', 'ttl', why_late())
      refresh(known[2])
    else
      redis.call('ZREM', key('expiries'), delivery)
    end
  end
  return #overdue
end

-- Moves what has become due from `later` to where it can be taken.
local function promote_due(limit)
  local due = redis.call('ZRANGEBYSCORE', key('later'), '-inf', digits(NOW), 'LIMIT', 0, limit)
  for _, member in ipairs(due) do
    redis.call('ZREM', key('later'), member)
    local id = string.sub(member, 3)
    if string.sub(member, 1, 2) == 'a:' then
      refresh(id)
    else
      local known = redis.call('HMGET', key('delivery', id), 'agent', 'score', 'state')
      if known[3] == 'waiting' then
        redis.call('HDEL', key('delivery', id), 'due')
        redis.call('HSET', key('delivery', id), 'cause', '')
        redis.call('ZADD', key('mailbox', known[1]), known[2], id)
        refresh(known[1])
      end
    end
  end
  return #due
end

-- Takes a lease back from a worker that fell silent or died. Its call may have reached the server, so the fate stays
-- open and the next worker looks; what took down MAX_CRASHES workers is poison.
local function take_back(agent)
  local holder = redis.call('HGET', key('holders'), agent) or ''
  local delivery = string.match(holder, '^%d+|([^|]*)|')
  free(agent)
  if delivery then
    local crashes = redis.call('HINCRBY', key('delivery', delivery), 'crashes', 1)
    if crashes >= MAX_CRASHES then
      finish(delivery, agent, 'running', 'dead', 'poison', 'its worker fell silent ' .. crashes .. ' times')
    else
      put_back(delivery, agent, 'recovered', 0)
    end
  end
  refresh(agent)
end

-- Takes back what workers that fell silent were holding.
local function reap_leases(limit)
  local overdue = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', digits(NOW), 'LIMIT', 0, limit)
  for _, agent in ipairs(overdue) do take_back(agent) end
  return #overdue
end

-- Makes one delivery of a message: in its agent's mailbox, or waiting for its time.
local function deliver(message, number, agent, teams, rank, arrival, due, expires_at)
  local delivery = message .. ':' .. number
  local record = key('delivery', delivery)
  local score = digits(rank * RANK_WIDTH + arrival)
  local cause = due > NOW and 'not_before' or ''
  redis.call('HSET', record, 'state', 'waiting', 'agent', agent, 'score', score, 'cause', cause,
    'history', history_with('', 'waiting', cause))
  if teams ~= '' then redis.call('HSET', record, 'teams', teams) end
  count('waiting', 1)
  event(message, delivery, agent, 'waiting', cause)
  if expires_at ~= '' then redis.call('ZADD', key('expiries'), expires_at, delivery) end
  if due > NOW then
    redis.call('HSET', record, 'due', digits(due))
    redis.call('ZADD', key('later'), digits(due), 'd:' .. delivery)
  else
    redis.call('ZADD', key('mailbox', agent), score, delivery)
    refresh(agent)
  end
  return delivery
end

-- Replies of this message are gathered: until so many have come, or until a time after its acceptance.
local function begin_gathering(message, entry_id, want, within)
  if not want then return end
  local record = key('message', message)
  redis.call('HSET', record, 'many', 1, 'gather_want', math.min(want, tonumber(redis.call('HGET', record, 'deliveries'))))
  redis.call('ZADD', key('gathers'), digits(tonumber(string.match(entry_id, '^(%d+)')) + within), message)
end

-- The next so many arrivals: the first of them. Later than all before, whatever the clock does.
local function arrivals(number)
  local first = math.max(NOW_US, tonumber(redis.call('HGET', key('counters'), 'arrival') or 0) + 1)
  redis.call('HSET', key('counters'), 'arrival', digits(first + number - 1))
  return first
end

-- Whether this dispatcher may move this entry of the stream to so many recipients: counts it in, and makes its record.
-- Answers nothing where it may, else lost, gone, full, duplicate or conflict, or `expanding` where its recipients are
-- known already. What was counted at the publish may differ from what the dispatcher counts.
local function admit(owner, entry_id, message, digest, envelope, size, expires_at, answers, recipients, state)
  if redis.call('GET', key('dispatcher')) ~= owner then return 'lost' end
  if #redis.call('XRANGE', key('tasks'), entry_id, entry_id) == 0 then return 'gone' end
  -- Once one did not fit, smaller ones behind it must not overtake it.
  if held_until('>') > 0 then return 'full' end
  local record = key('message', message)
  local known = redis.call('HMGET', record, 'digest', 'entry', 'state', 'size')
  if known[1] and (known[2] ~= entry_id or known[3] ~= 'accepted') then
    if known[1] ~= digest then return 'conflict' end
    if known[2] == entry_id and known[3] == 'expanding' then return 'expanding' end
    redis.call('XDEL', key('tasks'), entry_id)
    return 'duplicate'
  end
  local accepted_at = string.match(entry_id, '^(%d+)')
  if known[1] then
    count('accepted', -1)
    count('bytes', size - tonumber(known[4] or 0))
  else
    local bytes = tonumber(redis.call('HGET', key('counters'), 'bytes') or 0)
    local room = tonumber(redis.call('HGET', key('tenant'), 'max_bytes') or 0)
    if bytes > 0 and bytes + size > room then
      hold('>', NOW + FULL_PAUSE_MS, 'full')
      return 'full'
    end
    count('bytes', size)
    redis.call('ZADD', key('messages'), accepted_at, message)
    event(message, '', '', 'accepted', '')
  end
  redis.call('HSET', record, 'digest', digest, 'accepted_at', accepted_at, 'entry', entry_id, 'state', state,
    'size', size, 'envelope', envelope, 'deliveries', recipients, 'open', recipients, 'expires_at', expires_at)
  if recipients > 1 then redis.call('HSET', record, 'many', 1) end
  if answers ~= '' then redis.call('HSET', record, 'answers', answers) end
  return nil
end

-- Puts a message on the stream with its record, unless its id is known. Returns `accepted`, `duplicate` or
-- `conflict`, and when it was accepted.
local function accept(message, digest, envelope, size)
  local record = key('message', message)
  local known = redis.call('HMGET', record, 'digest', 'accepted_at')
  if known[1] then
    return known[1] == digest and 'duplicate' or 'conflict', known[2]
  end
  local entry = redis.call('XADD', key('tasks'), '*', 'message', envelope)
  local accepted_at = string.match(entry, '^(%d+)')
  redis.call('HSET', record, 'digest', digest, 'accepted_at', accepted_at, 'entry', entry, 'state', 'accepted', 'size', size)
  redis.call('ZADD', key('messages'), accepted_at, message)
  count('accepted', 1)
  count('bytes', size)
  event(message, '', '', 'accepted', '')
  return 'accepted', accepted_at
end
