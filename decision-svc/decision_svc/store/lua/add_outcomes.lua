-- Adds what one batch says of one service key to its slots, once.
--
-- KEYS  1    batches: sorted set of batch ids, scored by when they came
--       2..  slots: hashes of labels -> tally
--       (all in the slot of the service key)
-- ARGV  1    batch id
--       2    now
--       3    batches that came before this time are forgotten
--       4    for how many seconds the batches are kept from now on
--       5    how many batch ids are kept at most, the newest
--       6    how many labels a slot has at most
--       7..  outcomes, each: index into KEYS, when that slot expires (Unix time), labels,
--            the labels by which it is counted where there is no room for those, tally
--
-- A tally is MessagePack: statuses, request times, their sum, upstream times, their sum, lost;
-- the first, second and fourth are flat lists of key, count, key, count, in the order of keys.
--
-- Returns 1 if the batch was added, 0 if it had been added before.
-- Errors: WRONGTYPE or CORRUPT when a key holds something else; nothing was added then.

local function misfit(key, wanted)
  local found = redis.call('TYPE', key).ok
  if found ~= wanted and found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. wanted)
  end
end

-- Adds two flat lists up; both are in the order of their keys, and so is what comes of it.
local function both(one, other)
  local found, size, i, j = {}, 0, 1, 1
  local key, another = one[1], other[1]
  while key or another do
    if another == nil or (key and key < another) then
      found[size + 1], found[size + 2] = key, one[i + 1]
      i = i + 2
      key = one[i]
    elseif key == nil or another < key then
      found[size + 1], found[size + 2] = another, other[j + 1]
      j = j + 2
      another = other[j]
    else
      found[size + 1], found[size + 2] = key, one[i + 1] + other[j + 1]
      i, j = i + 2, j + 2
      key, another = one[i], other[j]
    end
    size = size + 2
  end
  return found
end

local function together(one, other)
  return {
    both(one[1], other[1]),
    both(one[2], other[2]),
    one[3] + other[3],
    both(one[4], other[4]),
    one[5] + other[5],
    one[6] + other[6],
  }
end

local trouble = misfit(KEYS[1], 'zset')
for index = 2, #KEYS do
  trouble = trouble or misfit(KEYS[index], 'hash')
end
if trouble then
  return trouble
end
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 0
end

-- Everything is read and added up before anything is written: a script is not undone.
local slots = {} -- index into KEYS -> {expires, labels -> tally, how many labels there are}
for at = 7, #ARGV, 5 do
  local index, labels = tonumber(ARGV[at]), ARGV[at + 2]
  local key = KEYS[index]
  local slot = slots[index]
  if not slot then
    slot = { expires = ARGV[at + 1], tallies = {}, size = redis.call('HLEN', key) }
    slots[index] = slot
  end
  local kept = redis.call('HGET', key, labels)
  if not kept and not slot.tallies[labels] and slot.size >= tonumber(ARGV[6]) then
    labels = ARGV[at + 3]
    kept = redis.call('HGET', key, labels)
  end
  local tally = cmsgpack.unpack(ARGV[at + 4])
  local known = slot.tallies[labels]
  if not known and kept then
    local is_well, read = pcall(cmsgpack.unpack, kept)
    if not is_well or type(read) ~= 'table' or #read ~= 6 then
      return redis.error_reply('CORRUPT ' .. key .. ' holds something that is not a tally')
    end
    known = read
  elseif not known then
    slot.size = slot.size + 1
  end
  slot.tallies[labels] = known and together(known, tally) or tally
end

redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[3])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -tonumber(ARGV[5]) - 1)
redis.call('EXPIRE', KEYS[1], ARGV[4])
for index, slot in pairs(slots) do
  for labels, tally in pairs(slot.tallies) do
    redis.call('HSET', KEYS[index], labels, cmsgpack.pack(tally))
  end
  redis.call('EXPIREAT', KEYS[index], slot.expires)
end
return 1
