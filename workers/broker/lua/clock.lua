-- The clock of every script: microseconds since the epoch, by Redis' own TIME, so that a slow or skewed host
-- can neither expire, double nor steal. Tests put another file in its place.
local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end
