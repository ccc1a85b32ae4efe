-- Gives a lease to whoever asks if nobody else holds it, or keeps it for its holder.
--
-- KEYS  1  lease: string, who holds it; expires with the lease
--       2  token: string, the fencing token of the latest holder; never expires
-- ARGV  1  who asks
--       2  for how many milliseconds from now on
--
-- Returns who holds it, its token, and for how many milliseconds still.

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return { holder, redis.call('GET', KEYS[2]) or '0', redis.call('PTTL', KEYS[1]) }
end
local token = holder and redis.call('GET', KEYS[2]) or redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return { ARGV[1], token, tonumber(ARGV[2]) }
