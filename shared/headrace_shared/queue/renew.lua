-- ARGV: worker lease_ms, then the requests whose listeners it asks for
-- Renews the lease. Returns a flat list of rid, status for what this worker holds but has to end (2 cancelled, 5 deadline
-- passed), and how many listen to each request that it named: one that is in a long prefill, or searches with beams, has
-- no frame whose answer would tell.
local worker = ARGV[1]
local now = now_ms()
redis.call('ZADD', BASE .. 'wk', 'XX', now + ARGV[2], worker)

local condemned = {}
for _, rid in ipairs(redis.call('ZRANGE', BASE .. 'own:' .. worker, 0, -1)) do
  local h = redis.call('HMGET', request_key(rid), 'cancel', 'deadline')
  local status = h[1] and 2 or h[2] and tonumber(h[2]) <= now and 5
  if status then
    condemned[#condemned + 1] = rid
    condemned[#condemned + 1] = status
  end
end

local listeners = {}
for i = 3, #ARGV do
  listeners[#listeners + 1] = redis.call('PUBSUB', 'SHARDNUMSUB', BASE .. 'tok:' .. ARGV[i])[2]
end
return {condemned, listeners}
