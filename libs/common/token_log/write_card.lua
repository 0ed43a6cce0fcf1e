-- Note whose a request is. A card that is written late must not outlive the log of a request that has ended.
--
-- KEYS: the card, the stream. ARGV: the card, its TTL in ms while the request lives.
local last, ttl = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1], tonumber(ARGV[2])
if last and last[2][1] == 'end' then ttl = math.max(1, redis.call('PTTL', KEYS[2])) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ttl)
