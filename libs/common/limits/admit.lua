-- Admits a request under all of its caller's limits at once, or counts nothing of it.
--
-- KEYS: the request's record, for settle.lua.
-- ARGV: JSON {take, id, expires_at, kept_until, now (tests only), checks: [{kind, key, limit, cost, ends_at, seed, seeded_until}]};
--       without take nothing is counted, it only tells. Kinds of checks:
--   window   of requests or tokens in any 60 s: a hash of second -> count
--   streams  that run: a sorted set of request ids by the time at which they have ended whatever happens
--   total    of tokens in a day or month: a number; where it is missing it is begun at seed, or told to be unknown
-- Returns {numbers of checks that refuse it, numbers of those unknown, for each check {left, wait, reset}}: what is left, in
-- how many milliseconds this request fits, and in how many something is given back.
local ask = cjson.decode(ARGV[1])
local now = ask.now
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local second = math.floor(now)
local WINDOW = 61 -- what was counted in the last fraction of a second is 60 s old only then

local look = {}

function look.window(check)
  local seconds, left = {}, check.limit
  local fields = redis.call('HGETALL', check.key)
  for i = 1, #fields, 2 do
    local at, count = tonumber(fields[i]), tonumber(fields[i + 1])
    if at + WINDOW <= now then
      redis.call('HDEL', check.key, fields[i])
    elseif count > 0 then
      left = left - count
      seconds[#seconds + 1] = {at, count}
    end
  end
  table.sort(seconds, function(one, other) return one[1] < other[1] end)
  local fits, wait = left, 0
  for _, entry in ipairs(seconds) do
    if fits >= check.cost then break end
    fits, wait = fits + entry[2], entry[1] + WINDOW - now
  end
  return {left, wait, seconds[1] and seconds[1][1] + WINDOW - now or 0}
end

function look.streams(check)
  redis.call('ZREMRANGEBYSCORE', check.key, '-inf', now)
  local left = check.limit - redis.call('ZCARD', check.key)
  return {left, left >= check.cost and 0 or 1, 1}
end

function look.total(check)
  local used = redis.call('GET', check.key)
  if not used and check.seed then
    used = check.seed
    redis.call('SET', check.key, used)
    redis.call('EXPIREAT', check.key, math.ceil(check.seeded_until))
  end
  if not used then return nil end
  local left, ends_in = check.limit - tonumber(used), check.ends_at - now
  return {left, left >= check.cost and 0 or ends_in, ends_in}
end

local take = {}

function take.window(check)
  redis.call('HINCRBY', check.key, second, check.cost)
  redis.call('EXPIRE', check.key, WINDOW)
end

function take.streams(check)
  redis.call('ZADD', check.key, ask.expires_at, ask.id)
  local seconds = math.ceil(ask.expires_at - now)
  if redis.call('TTL', check.key) < seconds then redis.call('EXPIRE', check.key, seconds) end
end

function take.total(check)
  redis.call('INCRBY', check.key, check.cost)
  -- Its seed has expired by Redis's clock before the period has ended by the gateway's.
  if redis.call('TTL', check.key) < 0 then redis.call('EXPIRE', check.key, 60) end
end

local refused, unknown, states = {}, {}, {}
for i, check in ipairs(ask.checks) do
  local state = look[check.kind](check)
  states[i] = state or {0, 0, 0}
  if not state then unknown[#unknown + 1] = i
  elseif state[2] > 0 then refused[#refused + 1] = i end
end

-- A record that is there already: this is the same call, sent again because its answer was lost.
local known = redis.call('EXISTS', KEYS[1]) == 1
if ask.take and #unknown == 0 and (known or #refused == 0) then
  refused = {}
  for i, check in ipairs(ask.checks) do
    if not known then
      take[check.kind](check)
      states[i][1] = states[i][1] - check.cost
    end
  end
  if not known then
    redis.call('SET', KEYS[1], cjson.encode({id = ask.id, at = second, checks = ask.checks}))
    redis.call('EXPIREAT', KEYS[1], math.ceil(ask.kept_until))
  end
end
for _, state in ipairs(states) do
  state[2], state[3] = math.ceil(state[2] * 1000), math.ceil(state[3] * 1000)
end
return {refused, unknown, states}
