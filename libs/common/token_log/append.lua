-- Append frames of several requests and ring one gateway's doorbell, atomically.
--
-- KEYS: one stream per request.
-- ARGV: channel ('' for none), TTL of an unfinished and of a finished log in ms, longest log in entries, then per stream:
--       epoch, seq of its first frame, 1 if its last frame ends the request, number of frames, the frames.
-- Returns per stream {status, last epoch, last seq}; status is one of
--   ok      everything is in the log now (frames that were already there are not written twice)
--   fenced  a higher epoch owns this request, or the log was lost with the mark of this epoch and a lower one has
--           written what these frames would be: stop
--   ended   the request has already ended: stop
--   gap     frames between the log's end and these are missing (the log was lost): send again from last seq + 1
local channel, ttl, final_ttl, longest = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local at = 5
local results, published = {}, {}

local function append(key, epoch, first, final, frames)
  local entry = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  local last_epoch, last_seq, ended = 0, 0, false
  if entry then
    local dash = string.find(entry[1], '-', 1, true)
    last_epoch = tonumber(string.sub(entry[1], 1, dash - 1))
    last_seq = tonumber(string.sub(entry[1], dash + 1))
    ended = entry[2][1] == 'end'
  end
  if last_epoch > epoch then return {'fenced', last_epoch, last_seq} end
  if ended then
    if last_epoch == epoch and last_seq == first + #frames - 1 then return {'ok', last_epoch, last_seq} end
    return {'ended', last_epoch, last_seq}
  end
  if first > last_seq + 1 then return {'gap', last_epoch, last_seq} end
  if last_epoch < epoch and first <= last_seq then return {'fenced', last_epoch, last_seq} end
  local wrote_end = false
  for i = last_seq - first + 2, #frames do
    last_seq = first + i - 1
    local field = (final and i == #frames) and 'end' or 'frame'
    wrote_end = field == 'end'
    redis.call('XADD', key, 'MAXLEN', '~', longest, epoch .. '-' .. last_seq, field, frames[i])
    published[#published + 1] = frames[i]
  end
  if wrote_end then
    redis.call('PEXPIRE', key, final_ttl)
    redis.call('PEXPIRE', 'omx:card:' .. string.sub(key, #'omx:log:' + 1), final_ttl)
  elseif not entry then redis.call('PEXPIRE', key, ttl) end
  return {'ok', epoch, last_seq}
end

for i, key in ipairs(KEYS) do
  local epoch, first, final, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2] == '1', tonumber(ARGV[at + 3])
  local frames = {}
  for j = 1, count do frames[j] = ARGV[at + 3 + j] end
  at = at + 4 + count
  results[i] = append(key, epoch, first, final, frames)
end

if channel ~= '' and #published > 0 then
  -- a MessagePack array of frames, so that the gateway decodes all of them in one call
  redis.call('PUBLISH', channel, '\221' .. struct.pack('>I4', #published) .. table.concat(published))
end
return results
