-- Gives one dead letter up: its end stands, and its message is purged in time like any other that has ended.
-- KEYS: the tenant's root
-- ARGV: entry_id
-- RETURNS: discarded or gone
if not registered() then return 'gone' end
local entry_id = ARGV[1]

local dead = read_letter(entry_id)
if not dead then return 'gone' end
local message, delivery = dead.message, dead.delivery
drop_letter(entry_id, message)

local agent = ''
local record = key('delivery', delivery)
if delivery == '' then record = key('message', message) end
local known = redis.call('HMGET', record, 'state', 'history', 'agent')
if known[1] == dead.state then
  redis.call('HSET', record, 'discarded_at', digits(NOW))
  if delivery ~= '' then
    agent = known[3]
    redis.call('HSET', record, 'history', history_with(known[2], dead.state, 'discarded'))
  end
  event(message, delivery, agent, dead.state, 'discarded')
end
local whole = redis.call('HMGET', key('message', message), 'state', 'letters')
if whole[1] and whole[1] ~= 'accepted' and whole[1] ~= 'expanding' and whole[1] ~= 'open' and not whole[2] then
  redis.call('ZADD', key('ended'), digits(NOW + KEPT_MS), message)
end
return 'discarded'
