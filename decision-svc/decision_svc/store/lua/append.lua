-- Adds a link to an audit chain if the caller has seen the one before.
--
-- KEYS  1   audit: list of links
-- ARGV  1   how many links there must be
--       2   link
--
-- Returns how many links there were. It was added if that is ARGV[1].

local length = redis.call('LLEN', KEYS[1])
if length == tonumber(ARGV[1]) then
  redis.call('RPUSH', KEYS[1], ARGV[2])
end
return length
