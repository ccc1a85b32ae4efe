-- Adds a report of metrics to its minutes, whole and once.
--
-- KEYS  1    report: string, that a report of this id was added
--       2..  minutes: hashes of "s" and series -> sum, "c" and series -> count
--       (all in the slot of the service key)
-- ARGV  1    for how many seconds the id is remembered; 0: it has none
--       2    how many series a minute holds
--       3..  what is reported, each: index into KEYS, when that minute expires (Unix time),
--            series, sum, count
--
-- Returns 1 if it was added, 0 if it had been added before, -1 if a minute has no room for it.
-- Errors: WRONGTYPE when a key holds something else; nothing was added then.

for index = 2, #KEYS do
  local found = redis.call('TYPE', KEYS[index]).ok
  if found ~= 'hash' and found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[index] .. ' is a ' .. found .. ', not a hash')
  end
end
if ARGV[1] ~= '0' and redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end

local more, seen = {}, {} -- index into KEYS -> how many series are new there; which were counted
for at = 3, #ARGV, 5 do
  local index, field = tonumber(ARGV[at]), 's' .. ARGV[at + 2]
  local name = ARGV[at] .. field
  if not seen[name] and redis.call('HEXISTS', KEYS[index], field) == 0 then
    seen[name] = true
    more[index] = (more[index] or 0) + 1
  end
end
for index, count in pairs(more) do
  if redis.call('HLEN', KEYS[index]) / 2 + count > tonumber(ARGV[2]) then
    return -1
  end
end

for at = 3, #ARGV, 5 do
  local key, series = KEYS[tonumber(ARGV[at])], ARGV[at + 2]
  redis.call('HINCRBYFLOAT', key, 's' .. series, ARGV[at + 3])
  redis.call('HINCRBY', key, 'c' .. series, ARGV[at + 4])
  redis.call('EXPIREAT', key, ARGV[at + 1])
end
if ARGV[1] ~= '0' then
  redis.call('SET', KEYS[1], '1', 'EX', ARGV[1])
end
return 1
