-- Ends or returns a batch of deliveries, each checked against its fencing token: outcome, reply, event, dead
-- letter, freed lease and the next ready mark are one step. A worker that lost its lease is refused; one that was
-- only late, while nobody else has taken the delivery since, is not.
-- KEYS: the tenant's root
-- ARGV: seed settlements... (each: delivery_id agent token state cause detail due_in_ms hold hold_ms refund
--   fate_open run_id reply stop_reason total_tokens forward_id forward_digest forward_envelope)
-- RETURNS: {next_look_ms, {result...}, pools to ring...}; result is settled, parked (settled, and its agent was
--   parked by it), already or lost
though_full()
local seed, STRIDE = ARGV[1], 18
local there = registered()

-- Sends the reply on. Answers nothing where it went, else why not.
local function forward(delivery, message_id, digest, envelope)
  if accept(message_id, digest, envelope, #envelope) == 'conflict' then
    return 'the reply was not sent on: its id ' .. message_id .. ' is another message\'s'
  end
  redis.call('HSET', key('delivery', delivery), 'reply_message', message_id)
end

local function settle(i)
  local delivery, agent, token, state, cause = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local detail, due_in, hold_scope, hold_ms = ARGV[i + 5], tonumber(ARGV[i + 6]), ARGV[i + 7], tonumber(ARGV[i + 8])
  local refund, fate, run, reply = ARGV[i + 9], ARGV[i + 10], ARGV[i + 11], ARGV[i + 12]
  local stop_reason, tokens = ARGV[i + 13], ARGV[i + 14]

  local record = key('delivery', delivery)
  local known = redis.call('HMGET', record, 'token', 'state', 'settled', 'epoch', 'expires_at')
  if known[1] ~= token then return 'lost' end
  if known[3] == token then return 'already' end
  local was = known[2]
  if was ~= 'running' and was ~= 'waiting' then return 'lost' end

  -- A lease that was taken back, and the delivery not taken again: this worker still knows best.
  if was == 'running' then
    free(agent)
  else
    -- Redriven since, it may be waiting elsewhere: set aside with its message, or on its way back from there.
    redis.call('ZREM', key('mailbox', agent), delivery)
    redis.call('ZREM', key('aside', message_of(delivery)), delivery)
    redis.call('ZREM', key('later'), 'd:' .. delivery)
    count('waiting', -1)
    count('running', 1)
  end
  redis.call('HSET', record, 'settled', token, 'detail', detail)
  -- The epoch of a turn that was delivered is over, too, but its time is the receipt's; so is the run of any end.
  if fate == 'closed' and state ~= 'delivered' then
    redis.call('HSET', record, 'epoch', tonumber(known[4] or 1) + 1)
    redis.call('HDEL', record, 'fate')
    if state ~= 'unknown' then redis.call('HDEL', record, 'delivered_at') end
    if state == 'waiting' then redis.call('HDEL', record, 'run') end
  end
  if run ~= '' then
    redis.call('HSET', record, 'run', run)
    redis.call('HSETNX', record, 'delivered_at', digits(NOW))
  end
  if refund == '1' then redis.call('HINCRBY', record, 'attempt', -1) end
  if hold_scope == 'agent' then
    hold(agent, NOW + hold_ms, cause)
  elseif hold_scope == 'tenant' then
    hold('*', NOW + hold_ms, cause)
  elseif hold_scope == 'parked' then
    park(agent, 'worker', detail)
  end

  local expires_at = tonumber(known[5] or redis.call('HGET', key('message', message_of(delivery)), 'expires_at') or '')
  if state == 'waiting' then
    if expires_at and expires_at <= NOW and fate == 'closed' then
      finish(delivery, agent, 'running', 'expired', 'ttl', detail)
    else
      put_back(delivery, agent, cause, due_in > 0 and NOW + due_in or 0)
      if expires_at then redis.call('ZADD', key('expiries'), digits(expires_at), delivery) end
    end
  else
    if state == 'delivered' then
      redis.call('HDEL', record, 'fate')
      redis.call('HSET', record, 'reply', reply, 'stop_reason', stop_reason, 'tokens', tokens)
      redis.call('HSETNX', record, 'delivered_at', digits(NOW))
      if expires_at and expires_at <= NOW then redis.call('HSET', record, 'late', 1) end
    end
    if ARGV[i + 15] ~= '' then detail = forward(delivery, ARGV[i + 15], ARGV[i + 16], ARGV[i + 17]) or detail end
    finish(delivery, agent, 'running', state, cause, detail)
  end
  refresh(agent)
  if parked_now[agent] then
    parked_now[agent] = nil
    return 'parked'
  end
  return 'settled'
end

local results = {}
for i = 2, #ARGV, STRIDE do
  results[#results + 1] = there and settle(i) or 'lost'
end
if not there then return {'0', results} end
local pools = ring_up(seed)
return {digits(next_look()), results, unpack(pools)}
