-- Counts what requests have really cost instead of what was estimated, and frees their slots. Each once: its record goes.
--
-- KEYS: records of requests, as admit.lua keeps them; those that are gone are skipped.
-- ARGV: the time in seconds ('' for Redis's own, as always outside of tests), then for each record its tokens.
local now = tonumber(ARGV[1]) or tonumber(redis.call('TIME')[1])

local function count(check, at, tokens)
  local difference = tokens - check.cost
  if difference == 0 then return end
  if check.kind == 'total' then
    if redis.call('EXISTS', check.key) == 1 then redis.call('INCRBY', check.key, difference) end
  elseif difference > 0 then
    redis.call('HINCRBY', check.key, math.floor(now), difference) -- known only now
    redis.call('EXPIRE', check.key, 61)
  elseif redis.call('HEXISTS', check.key, at) == 1 then
    redis.call('HINCRBY', check.key, at, difference)
  end
end

for i, key in ipairs(KEYS) do
  local text = redis.call('GET', key)
  if text then
    redis.call('DEL', key)
    local record = cjson.decode(text)
    for _, check in ipairs(record.checks) do
      if check.kind == 'streams' then
        redis.call('ZREM', check.key, record.id)
      elseif check.unit == 'tokens' then
        count(check, record.at, tonumber(ARGV[i + 1]))
      end
    end
  end
end
