-- Fence every epoch below this one. KEYS: the stream. ARGV: the new epoch, TTL in ms, a token of the call,
-- so that a call repeated because its answer was lost finds its own mark.
-- Returns {status, last epoch, last seq}: ok, fenced (this epoch or a higher one is already there) or ended.
local entry = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last_epoch, last_seq = 0, 0
if entry then
  local dash = string.find(entry[1], '-', 1, true)
  last_epoch = tonumber(string.sub(entry[1], 1, dash - 1))
  last_seq = tonumber(string.sub(entry[1], dash + 1))
  if entry[2][1] == 'end' then return {'ended', last_epoch, last_seq} end
end
if last_epoch == tonumber(ARGV[1]) and entry[2][1] == 'epoch' and entry[2][2] == ARGV[3] then return {'ok', last_epoch, last_seq} end
if last_epoch >= tonumber(ARGV[1]) then return {'fenced', last_epoch, last_seq} end
redis.call('XADD', KEYS[1], ARGV[1] .. '-' .. last_seq, 'epoch', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {'ok', tonumber(ARGV[1]), last_seq}
