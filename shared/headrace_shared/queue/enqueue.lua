-- ARGV: rid priority lane cost body timeout_ms('' = none) max_requests max_tokens ttl_ms max_attempts
-- Returns {code, requests queued before, tokens queued before}; code 0 new, 1 known already, 2 queue full.
local rid, priority, lane, cost, timeout = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6]
local key = request_key(rid)
local counts = redis.call('HMGET', BASE .. 'cnt', 'requests', 'tokens')
local requests, tokens = tonumber(counts[1] or '0'), tonumber(counts[2] or '0')

if redis.call('EXISTS', key) == 1 then return {1, requests, tokens} end
-- An empty queue takes any request, so that none is too large for ever.
if requests >= tonumber(ARGV[7]) or (requests > 0 and tokens + cost > tonumber(ARGV[8])) then
  return {2, requests, tokens}
end

local now = now_ms()
redis.call('SET', BASE .. 'body:' .. rid, ARGV[5])
local entry = enter_lane(priority, lane, rid, cost)
redis.call('HSET', key, 'state', 'Q', 'priority', priority, 'lane', lane, 'entry', entry, 'cost', cost, 'epoch', 0,
  'seq', 0, 'lost', 0, 'max', ARGV[10], 'ttl', ARGV[9], 'enqueued', now)
if timeout ~= '' then
  redis.call('HSET', key, 'deadline', now + timeout)
  redis.call('ZADD', BASE .. 'due', now + timeout, rid)
end
-- Workers drain a queue that is not empty without being told; waking them for each request would be a stampede.
if requests == 0 then redis.call('PUBLISH', BASE .. 'bell', '') end
return {0, requests, tokens}
