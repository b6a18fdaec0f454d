-- ARGV: worker nonce want max_cost lease_ms deadline_frame
-- Returns one {rid, epoch, seq, priority, enqueued, claimed, body} per claimed request.
-- The same nonce again (a lost reply) gets the same requests again.
local worker, nonce, want, room = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local now = now_ms()
local claimed = {}

-- The first entry that was never handed out, or nil.
local function head(priority, lane)
  local key = lane_key(priority, lane)
  if redis.call('EXISTS', key) == 0 then return nil end
  local group = redis.call('XINFO', 'GROUPS', key)[1]
  for i = 1, #group, 2 do
    if group[i] == 'last-delivered-id' then
      return redis.call('XRANGE', key, '(' .. group[i + 1], '+', 'COUNT', 1)[1]
    end
  end
end

local function charge(priority, lane, cost)
  if lane == CONTINUATION then return end
  local lanes = BASE .. 'lanes:' .. priority
  local served = redis.call('ZSCORE', lanes, lane)
  redis.call('SET', BASE .. 'vtime:' .. priority, served)
  redis.call('ZREMRANGEBYSCORE', BASE .. 'rest:' .. priority, '-inf', served)
  redis.call('ZINCRBY', lanes, math.max(cost, 1), lane)
end

local function take(priority, lane, rid, cost, enqueued)
  -- One consumer for all workers: the own sets say who holds what, and dead consumers would pile up in busy lanes.
  redis.call('XREADGROUP', 'GROUP', 'workers', 'any', 'COUNT', 1, 'STREAMS', lane_key(priority, lane), '>')
  local epoch = redis.call('HINCRBY', request_key(rid), 'epoch', 1)
  redis.call('HSET', request_key(rid), 'state', 'R', 'worker', worker, 'claimed', now)
  redis.call('ZADD', BASE .. 'own:' .. worker, enqueued, rid)
  redis.call('ZREM', BASE .. 'due', rid)
  tally(-1, -cost, 1)
  charge(priority, lane, cost)
  claimed[#claimed + 1] = {rid, epoch}
end

-- Deals with the head of the order. False: nothing more can be claimed now.
local function step()
  local priority = redis.call('ZRANGE', BASE .. 'prios', 0, 0)[1]
  if not priority then return false end
  local lane = redis.call('ZRANGE', BASE .. 'lanes:' .. priority, 0, 0)[1]
  if not lane then
    redis.call('ZREM', BASE .. 'prios', priority)
    return true
  end
  local entry = head(priority, lane)
  if not entry then
    rest_lane(priority, lane)
    return true
  end
  local rid, cost = entry[2][2], tonumber(entry[2][4])
  local h = redis.call('HMGET', request_key(rid), 'entry', 'deadline', 'seq', 'enqueued')
  if h[1] ~= entry[1] then -- its hash was lost or deleted by hand
    leave_lane(priority, lane, entry[1])
    tally(-1, -cost, 0)
  elseif h[2] and tonumber(h[2]) <= now then
    tally(-1, -cost, 0)
    log_frame(rid, h[3] + 1, ARGV[6])
    finish(rid, now)
  elseif cost > room then -- wait for it rather than starve it with smaller ones
    return false
  else
    take(priority, lane, rid, cost, h[4])
    room = room - cost
  end
  return true
end

redis.call('ZADD', BASE .. 'wk', now + ARGV[5], worker)
local replay = BASE .. 'nonce:' .. worker
local last = redis.call('HMGET', replay, 'nonce', 'claimed')
if last[1] == nonce then
  claimed = cmsgpack.unpack(last[2])
else
  -- Bounded, so that a queue full of expired requests cannot hold up everybody else.
  for _ = 1, want + 256 do
    if #claimed >= want or not step() then break end
  end
  redis.call('HSET', replay, 'nonce', nonce, 'claimed', cmsgpack.pack(claimed))
  -- reap deletes it with the worker; the lifetime is for queues that nobody reads any more.
  redis.call('PEXPIRE', replay, 86400000)
end

local reply = {}
for _, claim in ipairs(claimed) do
  local rid = claim[1]
  local h = redis.call('HMGET', request_key(rid), 'epoch', 'worker', 'state', 'seq', 'priority', 'enqueued', 'claimed')
  if h[1] == tostring(claim[2]) and h[2] == worker and h[3] == 'R' then
    local body = redis.call('GET', BASE .. 'body:' .. rid) or ''
    reply[#reply + 1] = {rid, h[1], h[4], h[5], h[6], h[7], body}
  end
end
return reply
