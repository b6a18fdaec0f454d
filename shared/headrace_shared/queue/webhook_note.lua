-- KEYS[1]: base of the batches. ARGV: id outcome error wait_ms('' = no further attempt)
-- What became of an attempt to tell a batch's end. Returns 1, or 0 when that is over already.
local BASE = KEYS[1]
local id = ARGV[1]
local key = BASE .. 'batch:' .. id
if not redis.call('ZSCORE', BASE .. 'webhooks', id) then return 0 end
redis.call('HINCRBY', BASE .. 'totals', ARGV[2] .. '_webhooks', 1)
local kept = redis.call('EXISTS', key) == 1
if kept then redis.call('HSET', key, 'webhook_error', ARGV[3]) end
if ARGV[4] == '' then
  redis.call('ZREM', BASE .. 'webhooks', id)
  if kept then redis.call('HSET', key, 'webhook', ARGV[2]) end
else
  local time = redis.call('TIME')
  redis.call('ZADD', BASE .. 'webhooks', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4], id)
end
return 1
