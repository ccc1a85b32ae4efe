-- Replaces the record of a release, unless a controller with a newer token has written it.
--
-- KEYS  1  record: hash of record, fence, closed
-- ARGV  1  fencing token of the writer
--       2  record
--       3  1 if nothing follows any more, else 0
--       4  for how many seconds it is kept from now on
--
-- Returns the fencing token that stands there now; nothing was written if it is above ARGV[1].

local newest = tonumber(redis.call('HGET', KEYS[1], 'fence') or '0')
if not newest then
  return redis.error_reply('CORRUPT ' .. KEYS[1] .. ' has a fence that is not a number')
end
if newest > tonumber(ARGV[1]) then
  return newest
end
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'record', ARGV[2], 'closed', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return tonumber(ARGV[1])
