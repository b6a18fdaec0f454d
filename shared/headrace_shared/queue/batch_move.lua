-- KEYS[1]: base of the batches. ARGV: id epoch('' = not its owner) from to now_s ttl_s('' = it goes on) field value...
-- Another status, with its moment, when the present one is among from (commas between). Returns 1 done, or it has that
-- status already; 0 fenced, unknown, or in another status. With ttl_s the batch is over.
local BASE = KEYS[1]
local id, to = ARGV[1], ARGV[4]
local key = BASE .. 'batch:' .. id
local h = redis.call('HMGET', key, 'status', 'epoch', 'owner', 'input', 'total', 'tokens', 'webhook')
if not h[1] or (ARGV[2] ~= '' and ARGV[2] ~= h[2]) then return 0 end
if h[1] == to then return 1 end
if not string.find(',' .. ARGV[3] .. ',', ',' .. h[1] .. ',', 1, true) then return 0 end
redis.call('HSET', key, 'status', to, to .. '_at', ARGV[5])
for i = 7, #ARGV, 2 do redis.call('HSET', key, ARGV[i], ARGV[i + 1]) end
if ARGV[6] == '' then return 1 end
redis.call('ZREM', BASE .. 'open', id)
redis.call('HINCRBY', BASE .. 'totals', to, 1)
if h[7] then redis.call('ZADD', BASE .. 'webhooks', 0, id) end
local input = BASE .. 'file:' .. h[4]
if redis.call('EXISTS', input) == 1 then redis.call('HINCRBY', input, 'uses', -1) end
if h[5] then
  if redis.call('HINCRBY', BASE .. 'enqueued', 'i' .. h[3], -h[5]) <= 0 then
    redis.call('HDEL', BASE .. 'enqueued', 'i' .. h[3], 't' .. h[3])
  else
    redis.call('HINCRBY', BASE .. 'enqueued', 't' .. h[3], -(h[6] or 0))
  end
end
redis.call('DEL', BASE .. 'segments:' .. id, BASE .. 'done:' .. id)
-- A former owner may still write a segment that counts for nothing.
redis.call('ZADD', BASE .. 'trash', ARGV[5] * 1000 + 600000, 'batches/' .. id .. '/')
redis.call('EXPIRE', key, ARGV[6])
return 1
