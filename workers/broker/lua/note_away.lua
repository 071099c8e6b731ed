-- Notes for a while that a worker finds the Letta server away, for whoever asks why nothing goes. It keeps nothing from
-- being taken: another worker may reach the server.
-- KEYS: the tenant's root
-- ARGV: for_ms
-- RETURNS: 1, or 0 where the tenant is not there
if not registered() then return 0 end
redis.call('HSET', key('holds'), '~', digits(NOW + tonumber(ARGV[1])) .. '|server_away')
return 1
