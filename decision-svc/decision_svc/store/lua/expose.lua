-- Counts users of one variant of a release, and lists them while there is room.
--
-- KEYS  1   exposure: HyperLogLog
--       2   users: set
-- ARGV  1   for how many seconds both are kept from now on
--       2   how many users are listed at most; 0: list nobody
--       3.. users
--
-- Returns nothing.

local CHUNK = 1000 -- unpack puts its values on the Lua stack, which holds 8,000

for first = 3, #ARGV, CHUNK do
  local last = math.min(first + CHUNK - 1, #ARGV)
  redis.call('PFADD', KEYS[1], unpack(ARGV, first, last))
  local room = tonumber(ARGV[2]) - redis.call('SCARD', KEYS[2])
  if room > 0 then
    redis.call('SADD', KEYS[2], unpack(ARGV, first, math.min(last, first + room - 1)))
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
