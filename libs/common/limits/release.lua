-- Frees the slots of a request that nobody listens to any more. Its tokens are settled once they are known.
--
-- KEYS: the request's record.
local text = redis.call('GET', KEYS[1])
if text then
  local record = cjson.decode(text)
  for _, check in ipairs(record.checks) do
    if check.kind == 'streams' then redis.call('ZREM', check.key, record.id) end
  end
end
