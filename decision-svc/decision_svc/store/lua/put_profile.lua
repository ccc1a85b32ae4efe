-- Replaces what is known of one user, or forgets it.
--
-- KEYS  1   profile: hash of the fields
-- ARGV  1   channel to announce the change on
--       2   what to announce
--       3.. field, value, field, value...; none: forget the user
--
-- Returns nothing.

redis.call('DEL', KEYS[1])
if #ARGV > 2 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 3))
end
redis.call('PUBLISH', ARGV[1], ARGV[2])
