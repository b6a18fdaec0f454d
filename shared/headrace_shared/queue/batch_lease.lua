-- KEYS[1]: base of the batches. ARGV: id worker lease_ms epoch('' = take it over)
-- Returns {epoch, status}; epoch 0: it is somebody else's, or done. lease_ms 0 gives it back.
-- The epoch is the fence: whoever writes for a batch names it. It is taken from Redis' clock, so that it is never the
-- same again, even when Redis has lost the last one.
local BASE = KEYS[1]
local id, lease = ARGV[1], tonumber(ARGV[3])
local key = BASE .. 'batch:' .. id
local ends = redis.call('ZSCORE', BASE .. 'open', id)
if not ends then return {0, ''} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local h = redis.call('HMGET', key, 'status', 'epoch')
local epoch = tonumber(h[2] or '0')
if ARGV[4] == '' then
  if tonumber(ends) > now then return {0, ''} end
  epoch = math.max(now, epoch + 1)
  redis.call('HSET', key, 'epoch', epoch, 'worker', ARGV[2])
elseif tonumber(ARGV[4]) ~= epoch then
  return {0, ''}
end
redis.call('ZADD', BASE .. 'open', lease == 0 and math.floor(now / 1000) or now + lease, id)
return {epoch, h[1]}
