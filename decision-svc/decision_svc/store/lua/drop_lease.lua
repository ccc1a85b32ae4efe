-- Ends a lease, if whoever asks holds it.
--
-- KEYS  1  lease: string, who holds it
-- ARGV  1  who asks
--
-- Returns nothing.

if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
