-- Moves one entry of the stream that cannot be a delivery to the dead letters, with its raw bytes, and records
-- the message as refused. The record of another message under the same id is left alone: this one is then
-- recorded under its entry's name (schemas/ids.py, message_id_of_entry).
-- KEYS: the tenant's root
-- ARGV: owner entry_id message_id cause detail answers
-- RETURNS: refused, gone or lost
if not registered() then return 'lost' end
local owner, entry_id, message_id, cause, detail, answers = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

if redis.call('GET', key('dispatcher')) ~= owner then return 'lost' end
local entry = redis.call('XRANGE', key('tasks'), entry_id, entry_id)[1]
if not entry then return 'gone' end

local fields, raw = entry[2], nil
for i = 1, #fields, 2 do
  if fields[i] == 'message' then raw = fields[i + 1] end
end
raw = raw or table.concat(fields, ' ')

local accepted_at = string.match(entry_id, '^(%d+)')
local record = key('message', message_id)
local owner_of_id = redis.call('HGET', record, 'entry')
if owner_of_id and owner_of_id ~= entry_id then
  message_id = 'x' .. entry_id
  record = key('message', message_id)
end
if redis.call('HGET', record, 'state') == 'accepted' then
  count('accepted', -1)
  count('bytes', -tonumber(redis.call('HGET', record, 'size') or 0))
end
redis.call('HSET', record, 'state', 'refused', 'cause', cause, 'detail', detail, 'accepted_at', accepted_at,
  'entry', entry_id, 'deliveries', 0, 'ended_at', digits(NOW))
redis.call('ZADD', key('messages'), accepted_at, message_id)
redis.call('XDEL', key('tasks'), entry_id)
count('refused', 1)
event(message_id, '', '', 'refused', cause)
letter(message_id, '', 'refused', cause, detail, 0, raw)
if answers ~= '' then redis.call('HSET', record, 'answers', answers) end
post_end(message_id, '', 'refused', cause, detail)
return 'refused'
