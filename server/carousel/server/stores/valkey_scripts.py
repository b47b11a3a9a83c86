"""What Valkey runs by itself: each script is one atomic step, in memory as in its log."""

from __future__ import annotations

# KEYS: ids, live, ended, then the entry of each session. ARGV: the prefix of entries, all formers,
# then the new record of each. Answers the places of the refused.
# Handles and revisions stay bytes: Lua's numbers hold 53 bits.
WRITE = r"""
local OVER = string.rep('\0', 8)  -- the handle of what has ended, or is absent

local function above(a, b)
  local a_high, a_low = struct.unpack('>I4I4', a)
  local b_high, b_low = struct.unpack('>I4I4', b)
  return a_high > b_high or a_high == b_high and a_low > b_low
end

-- The rule of StateStore.write.
local function accepts(has, at, former, handle, revision)
  if has == OVER then return former == OVER or handle == OVER end
  if has == handle then return not above(at, revision) end
  return has == former and above(revision, at)
end

local refused = {}
for place = 1, #ARGV - 2 do
  local key, record = KEYS[place + 3], ARGV[place + 2]
  local former = string.sub(ARGV[2], place * 8 - 7, place * 8)
  local handle, revision = string.sub(record, 1, 8), string.sub(record, 9, 16)
  local head = redis.call('GETRANGE', key, 0, 15)
  if head == '' then head = OVER .. OVER end
  local has, at = string.sub(head, 1, 8), string.sub(head, 9, 16)
  if accepts(has, at, former, handle, revision) then
    local id = string.sub(key, #ARGV[1] + 1)
    local expire_time = string.format('%.17g', (struct.unpack('>d', record, 17)))
    redis.call('SET', key, record)
    if handle == OVER then
      redis.call('ZREM', KEYS[1], id)
      redis.call('ZREM', KEYS[2], id)
      redis.call('ZADD', KEYS[3], expire_time, id)
    else
      redis.call('ZADD', KEYS[2], expire_time, id)
      if has == OVER then
        redis.call('ZADD', KEYS[1], 0, id)
        redis.call('ZREM', KEYS[3], id)
      end
    end
  else
    refused[#refused + 1] = place - 1
  end
end
return refused
"""

# KEYS: a sorted set of ids. ARGV: the prefix of entries, then the range: from, to, by, at most.
# Answers ids and records in turn.
RANGE = """
local found = {}
for _, id in ipairs(
  redis.call('ZRANGE', KEYS[1], ARGV[2], ARGV[3], ARGV[4], 'LIMIT', 0, ARGV[5])
) do
  local record = redis.call('GET', ARGV[1] .. id)
  if record then
    found[#found + 1] = id
    found[#found + 1] = record
  end
end
return found
"""

# KEYS: ended. ARGV: the prefix of entries, now, at most. Answers how many are forgotten.
FORGET = """
local ids = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[2], 'BYSCORE', 'LIMIT', 0, ARGV[3])
for _, id in ipairs(ids) do
  redis.call('DEL', ARGV[1] .. id)
  redis.call('ZREM', KEYS[1], id)
end
return #ids
"""
