-- Saves one revision of a policy if the caller has seen the one before: all of it or nothing.
--
-- KEYS  1    policy: hash of the current revision and document
--       2    revisions: hash of revision -> document
--       3    changes: sorted set of change records, scored by revision
--       4    audit: list of links
--       5..  the members of one segment each: sets
--       (all in the slot of the service key)
-- ARGV  1    the revision that must be current, 0 for none
--       2    the revision to write
--       3    document
--       4    change record
--       5    channel to announce the change on
--       6    what to announce
--       7    how many links there must be; -1: write no link
--       8    link
--       9    how many documents are kept, the newest
--       10.. edits in order, each: index into KEYS, "add" | "remove" | "drop", count, users...
--
-- Returns the revision that was current and how many links there were. All was written if those
-- are ARGV[1] and ARGV[7] (or that is -1); otherwise nothing was touched.
-- Errors: WRONGTYPE or CORRUPT when a key holds something else, NOPERM when the user of the
-- connection may not do all of it; nothing was touched.

local CHUNK = 1000 -- unpack puts its values on the Lua stack, which holds 8,000
local TRIMMED = 1000 -- so many documents at most are forgotten by one write

-- A script is not undone when a command of it fails, so what can fail is looked at first.
local function misfit(key, wanted)
  local found = redis.call('TYPE', key).ok
  if found ~= wanted and found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. wanted)
  end
end

local function first_misfit()
  local trouble = misfit(KEYS[1], 'hash') or misfit(KEYS[2], 'hash') or misfit(KEYS[3], 'zset')
    or misfit(KEYS[4], 'list')
  for index = 5, #KEYS do
    trouble = trouble or misfit(KEYS[index], 'set')
  end
  return trouble
end

local function forbidden(command, target, ...)
  -- Redis 7 made this question possible, and users who may not publish the default.
  if redis.acl_check_cmd and not redis.acl_check_cmd(command, target, ...) then
    return redis.error_reply('NOPERM this user may not ' .. command .. ' ' .. target)
  end
end

local function first_forbidden()
  local trouble = forbidden('HSET', KEYS[1], 'field', 'value')
    or forbidden('HSET', KEYS[2], 'field', 'value')
    or forbidden('HLEN', KEYS[2])
    or forbidden('HDEL', KEYS[2], 'field')
    or forbidden('ZADD', KEYS[3], '1', 'value')
    or forbidden('LLEN', KEYS[4])
    or forbidden('RPUSH', KEYS[4], 'value')
    or forbidden('PUBLISH', ARGV[5], ARGV[6])
  for index = 5, #KEYS do
    trouble = trouble
      or forbidden('SADD', KEYS[index], 'value')
      or forbidden('SREM', KEYS[index], 'value')
      or forbidden('DEL', KEYS[index])
  end
  return trouble
end

local function in_chunks(command, key, first, last)
  for start = first, last, CHUNK do
    redis.call(command, key, unpack(ARGV, start, math.min(start + CHUNK - 1, last)))
  end
end

local function apply_edits()
  local at = 10
  while at <= #ARGV do
    local key, verb, count = KEYS[tonumber(ARGV[at])], ARGV[at + 1], tonumber(ARGV[at + 2])
    local first, last = at + 3, at + 2 + count
    if verb == 'drop' then
      redis.call('DEL', key)
    elseif verb == 'add' then
      in_chunks('SADD', key, first, last)
    else
      in_chunks('SREM', key, first, last)
    end
    at = last + 1
  end
end

-- Revisions follow one another, so the oldest of so many is known.
local function forget_old_documents(newest, kept)
  local excess = math.min(redis.call('HLEN', KEYS[2]) - kept, TRIMMED)
  local oldest = newest - redis.call('HLEN', KEYS[2]) + 1
  for revision = oldest, oldest + excess - 1 do
    redis.call('HDEL', KEYS[2], string.format('%.0f', revision))
  end
end

local trouble = first_misfit() or first_forbidden()
if trouble then
  return trouble
end

local current = tonumber(redis.call('HGET', KEYS[1], 'revision') or '0')
if not current then
  return redis.error_reply('CORRUPT ' .. KEYS[1] .. ' has a revision that is not a number')
end
local length, expected = redis.call('LLEN', KEYS[4]), tonumber(ARGV[7])
if current ~= tonumber(ARGV[1]) or (expected ~= -1 and expected ~= length) then
  return { current, length }
end

redis.call('HSET', KEYS[1], 'revision', ARGV[2], 'document', ARGV[3])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[4])
if expected ~= -1 then
  redis.call('RPUSH', KEYS[4], ARGV[8])
end
forget_old_documents(tonumber(ARGV[2]), tonumber(ARGV[9]))
apply_edits()
redis.call('PUBLISH', ARGV[5], ARGV[6])
return { current, length }
