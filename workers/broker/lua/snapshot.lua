-- Takes down, once, to whom an entry of the stream goes that many agents fit. The entry stays on the stream until
-- lua/expand.lua has made every delivery: whoever comes after a crash goes on where it stood.
-- KEYS: the tenant's root
-- ARGV: owner entry_id message_id digest envelope size rank not_before_ms expires_at_ms gather_want gather_within_ms answers recipients... (each: `agent|team,team`)
-- RETURNS: taken, expanding (it was taken before), duplicate, conflict, gone, full or lost
if not registered() then return 'lost' end
local owner, entry_id, message_id, digest, envelope = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local size, rank, not_before, expires_at = tonumber(ARGV[6]), ARGV[7], ARGV[8], ARGV[9]
local HEAD, AT_ONCE = 12, 1000
local recipients = #ARGV - HEAD

local why_not = admit(owner, entry_id, message_id, digest, envelope, size, expires_at, ARGV[12], recipients, 'expanding')
if why_not then return why_not end

redis.call('HSET', key('message', message_id), 'many', 1, 'expanded', 0, 'rank', rank, 'not_before', not_before,
  'arrival', digits(arrivals(recipients)))
begin_gathering(message_id, entry_id, tonumber(ARGV[10]), tonumber(ARGV[11]))
for from = HEAD + 1, #ARGV, AT_ONCE do
  redis.call('RPUSH', key('snapshot', message_id), unpack(ARGV, from, math.min(from + AT_ONCE - 1, #ARGV)))
end
redis.call('ZADD', key('bulks'), string.match(entry_id, '^(%d+)'), message_id)
count('accepted', recipients)
count('expanding', 1)
return 'taken'
