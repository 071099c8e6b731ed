-- Moves one entry of the stream into the mailboxes of its recipients: ledger entries, mailboxes, ready marks and
-- the deletion of the entry are one step, so that a crash leaves it in one place or the other, never both or neither.
-- KEYS: the tenant's root
-- ARGV: owner entry_id message_id digest envelope size rank not_before_ms expires_at_ms gather_want gather_within_ms answers seed recipients... (each: agent id, its teams separated by commas)
-- RETURNS: {status, next_look_ms, pools to ring...}; without a seed, somebody is to look now; status is moved, duplicate, conflict, gone, full or lost
if not registered() then return {'lost', 0} end
unless_full()
local owner, entry_id, message_id, digest, envelope = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local size, rank, not_before, expires_at = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local gather_want, gather_within, answers, seed = tonumber(ARGV[10]), tonumber(ARGV[11]), ARGV[12], ARGV[13]
local recipients = (#ARGV - 13) / 2

local why_not = admit(owner, entry_id, message_id, digest, envelope, size, expires_at, answers, recipients, 'open')
if why_not then return {why_not, 0} end

begin_gathering(message_id, entry_id, gather_want, gather_within)
local first = arrivals(recipients)
for number = 1, recipients do
  local agent, teams = ARGV[12 + 2 * number], ARGV[13 + 2 * number]
  deliver(message_id, number, agent, teams, rank, first + number - 1, not_before or 0, expires_at)
end
redis.call('XDEL', key('tasks'), entry_id)
-- Another one follows in the same step, and looks and rings for this one, too.
if seed == '' then return {'moved', digits(NOW)} end
return {'moved', digits(next_look()), unpack(ring_up(seed))}
