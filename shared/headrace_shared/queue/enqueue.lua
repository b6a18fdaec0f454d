-- ARGV: rid priority lane cost body timeout_ms('' = none) max_requests max_tokens ttl_ms max_attempts
--   weight aging_ms tenant_requests tenant_tokens idem('' = none) fingerprint ask_id('' = none) ask
--   affinity(digests, comma between) hold_ms dead_letter('' = none) background(1, '' = no)
-- Returns {code, requests and tokens queued before, work and busy ms of the pace, request id}. Codes: 0 new, 1 known
-- already, 2 queue full, 3 tenant's share full (the numbers are its own), 4 and 5 the idempotency key is that of the
-- request returned, with the same fingerprint and with another one, 6 there is no such dead letter.
-- A dead letter is removed when its request is accepted, and changes nothing of the order's settings.
local rid, priority, lane, cost, timeout = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6]
local key = request_key(rid)
local counts = redis.call('HMGET', BASE .. 'cnt', 'requests', 'tokens')
local pace = redis.call('HMGET', BASE .. 'pace', 'work', 'busy', 'aging', 'hold')

local function answer(code, held, owner)
  return {code, tonumber(held[1] or '0'), tonumber(held[2] or '0'), pace[1] or '0', pace[2] or '0', owner or rid}
end

-- An empty queue takes any request, so that none is too large for ever.
local function full(held, max_requests, max_tokens)
  local requests, tokens = tonumber(held[1] or '0'), tonumber(held[2] or '0')
  return requests >= tonumber(max_requests) or (requests > 0 and tokens + cost > tonumber(max_tokens))
end

if redis.call('EXISTS', key) == 1 then return answer(1, counts) end
local idem = BASE .. 'idem:' .. ARGV[15]
if ARGV[15] ~= '' then
  local earlier = redis.call('HMGET', idem, 'rid', 'print')
  local known = earlier[1] and redis.call('HMGET', request_key(earlier[1]), 'state', 'cancel')
  if known and known[1] and not known[2] then
    return answer(earlier[2] == ARGV[16] and 4 or 5, counts, earlier[1])
  end
end
if ARGV[21] ~= '' and #redis.call('XRANGE', BASE .. 'dlq', ARGV[21], ARGV[21]) == 0 then return answer(6, counts) end
local share = redis.call('HMGET', BASE .. 'tenants', 'r' .. lane, 't' .. lane)
if full(counts, ARGV[7], ARGV[8]) then return answer(2, counts) end
if full(share, ARGV[13], ARGV[14]) then return answer(3, share) end

local now = now_ms()
redis.call('SET', BASE .. 'body:' .. rid, ARGV[5])
local entry, ticket = enter_lane(rid, priority, lane, cost, now)
redis.call('HSET', BASE .. 'cnt', 'requests', (counts[1] or 0) + 1, 'tokens', (counts[2] or 0) + cost)
redis.call('HSET', BASE .. 'tenants', 'r' .. lane, (share[1] or 0) + 1, 't' .. lane, (share[2] or 0) + cost)
redis.call('HSET', key, 'state', 'Q', 'priority', priority, 'lane', lane, 'tenant', lane, 'entry', entry, 'cost', cost,
  'epoch', 0, 'seq', 0, 'lost', 0, 'max', ARGV[10], 'ttl', ARGV[9], 'enqueued', now, 'ticket', ticket)
if ARGV[11] ~= '1' then redis.call('HSET', key, 'weight', ARGV[11]) end
if ARGV[19] ~= '' then redis.call('HSET', key, 'affinity', ARGV[19]) end
if ARGV[22] == '1' then redis.call('HSET', key, 'background', 1) end
if ARGV[21] ~= '' then redis.call('XDEL', BASE .. 'dlq', ARGV[21])
elseif (pace[3] or '0') ~= ARGV[12] or (pace[4] or '0') ~= ARGV[20] then
  set_pace('aging', ARGV[12], 'hold', ARGV[20])
end
if timeout ~= '' then
  redis.call('HSET', key, 'deadline', now + timeout)
  redis.call('ZADD', BASE .. 'due', now + timeout, rid)
end
if ARGV[15] ~= '' then
  redis.call('HSET', key, 'idem', ARGV[15])
  redis.call('HSET', idem, 'rid', rid, 'print', ARGV[16])
  redis.call('PERSIST', idem)
end
if ARGV[17] ~= '' then
  local ask = BASE .. 'ask:' .. ARGV[17]
  redis.call('HSET', key, 'ask', ARGV[17])
  redis.call('HSETNX', ask, 'ask', ARGV[18])
  redis.call('HINCRBY', ask, 'open', 1)
  redis.call('PERSIST', ask)
end
-- Workers drain a queue that is not empty without being told; waking them for each request would be a stampede. Whoever is
-- the first on a level above all others may find room where those behind it did not.
local first = ticket == 1 and redis.call('ZRANGE', BASE .. 'prios', 0, 0)[1] == priority
if first or tonumber(counts[1] or '0') == 0 then redis.call('SPUBLISH', BASE .. 'bell', '') end
return answer(0, counts)
