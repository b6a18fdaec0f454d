-- KEYS[1]: base of the batches. ARGV: limit lease_ms
-- Returns {id, attempt} of batches whose end is to be told now. They are due again after the lease, unless it is noted
-- by then what became of it: so whoever dies over it has told it late, not never.
local BASE = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local taken = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', BASE .. 'webhooks', '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local key = BASE .. 'batch:' .. id
  if redis.call('EXISTS', key) == 1 then
    redis.call('ZADD', BASE .. 'webhooks', now + ARGV[2], id)
    taken[#taken + 1] = {id, redis.call('HINCRBY', key, 'webhook_attempts', 1)}
  else
    redis.call('ZREM', BASE .. 'webhooks', id)
  end
end
return taken
