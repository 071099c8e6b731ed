-- Mends one delivery by its ledger entry: it stands in its mailbox or not before its time while it waits, under its
-- agent's lease while it runs, and nowhere once it has ended. `agent` is where it was found, if anywhere.
-- KEYS: the tenant's root
-- ARGV: delivery_id agent
-- RETURNS: next_look_ms
if not registered() then return '0' end
local delivery, agent = ARGV[1], ARGV[2]
local known = redis.call('HMGET', key('delivery', delivery), 'state', 'agent', 'score', 'fate', 'token', 'due')
local state, own = known[1], known[2]

if agent ~= '' and (own ~= agent or state ~= 'waiting') then
  redis.call('ZREM', key('mailbox', agent), delivery)
  refresh(agent)
end
if state == 'running' then
  local token, held = string.match(redis.call('HGET', key('holders'), own) or '', '^(%d+)|([^|]*)|')
  if held ~= delivery or token ~= known[5] then
    -- Nobody has it: its call may have reached the server, and the next worker looks.
    put_back(delivery, own, 'recovered', 0)
    state = 'waiting'
  end
elseif state == 'waiting' then
  local aside = redis.call('ZSCORE', key('aside', message_of(delivery)), delivery)
  -- What is set aside comes back when its message is resumed.
  if aside then
    redis.call('ZREM', key('later'), 'd:' .. delivery)
  end
  if aside or redis.call('ZSCORE', key('later'), 'd:' .. delivery) then
    redis.call('ZREM', key('mailbox', own), delivery)
  else
    redis.call('ZADD', key('mailbox', own), known[3], delivery)
  end
end
if state ~= 'waiting' then
  redis.call('ZREM', key('later'), 'd:' .. delivery)
  redis.call('ZREM', key('aside', message_of(delivery)), delivery)
end
local expires_at = state == 'waiting' and known[4] ~= 'open' and expires_of(delivery)
if expires_at then
  redis.call('ZADD', key('expiries'), digits(expires_at), delivery)
elseif state ~= 'running' then
  redis.call('ZREM', key('expiries'), delivery)
end
if own then refresh(own) end
return digits(next_look_or_now())
