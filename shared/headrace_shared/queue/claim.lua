-- ARGV: worker nonce want max_cost lease_ms deadline_frame
-- Returns one {rid, epoch, seq, priority, enqueued, claimed, body} per claimed request.
-- The same nonce again (a lost reply) gets the same requests again.
local worker, nonce, want, room = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local now = now_ms()
local claimed = {}
local taken_tokens = 0
local pace = redis.call('HMGET', BASE .. 'pace', 'aging', 'turn')
local aging, turn = tonumber(pace[1] or '0'), tonumber(pace[2] or '0')

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

-- Whose turn it is: priority, lane, and true when that is out of order. With a bound on waiting, every eighth pick is
-- for whoever waits longest, once that is longer than the bound.
local function next_lane()
  if aging > 0 and turn % 8 == 0 then
    local oldest = redis.call('ZRANGE', BASE .. 'age', 0, 0, 'WITHSCORES')
    if oldest[1] and tonumber(oldest[2]) + aging <= now then
      local h = redis.call('HMGET', request_key(oldest[1]), 'priority', 'lane')
      if h[1] then return h[1], h[2], true end
      redis.call('ZREM', BASE .. 'age', oldest[1]) -- its hash was lost
    end
  end
  local priority = redis.call('ZRANGE', BASE .. 'prios', 0, 0)[1]
  if not priority then return nil end
  return priority, redis.call('ZRANGE', BASE .. 'lanes:' .. priority, 0, 0)[1], false
end

local function charge(priority, lane, cost, aged)
  if lane == CONTINUATION then return end
  local lanes = BASE .. 'lanes:' .. priority
  if not aged then
    local served = redis.call('ZSCORE', lanes, lane)
    redis.call('SET', BASE .. 'vtime:' .. priority, served)
    redis.call('ZREMRANGEBYSCORE', BASE .. 'rest:' .. priority, '-inf', served)
  end
  redis.call('ZINCRBY', lanes, cost, lane)
end

local function take(priority, lane, rid, cost, h, aged)
  -- One consumer for all workers: the own sets say who holds what, and dead consumers would pile up in busy lanes.
  redis.call('XREADGROUP', 'GROUP', 'workers', 'any', 'COUNT', 1, 'STREAMS', lane_key(priority, lane), '>')
  local epoch = redis.call('HINCRBY', request_key(rid), 'epoch', 1)
  redis.call('HSET', request_key(rid), 'state', 'R', 'worker', worker, 'claimed', now)
  redis.call('ZADD', BASE .. 'own:' .. worker, h[4], rid)
  count_share(-1, priority, h[5], cost)
  redis.call('ZREM', BASE .. 'age', rid)
  if h[2] then redis.call('ZREM', BASE .. 'due', rid) end
  taken_tokens = taken_tokens + cost
  if aging > 0 then turn = redis.call('HINCRBY', BASE .. 'pace', 'turn', 1) end
  charge(priority, lane, math.max(cost, 1) / (h[6] or 1), aged)
  claimed[#claimed + 1] = {rid, epoch}
end

-- Deals with the head of the order. False: nothing more can be claimed now.
local function step()
  local priority, lane, aged = next_lane()
  if not priority then return false end
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
  local h = redis.call('HMGET', request_key(rid), 'entry', 'deadline', 'seq', 'enqueued', 'tenant', 'weight')
  if h[1] ~= entry[1] then -- its hash was lost or deleted by hand
    stop_waiting(rid, priority, lane, cost)
    leave_lane(priority, lane, entry[1])
  elseif h[2] and tonumber(h[2]) <= now then
    stop_waiting(rid, priority, h[5], cost)
    log_frame(rid, h[3] + 1, ARGV[6])
    finish(rid, now, false)
  elseif cost > room then -- wait for it rather than starve it with smaller ones
    return false
  else
    take(priority, lane, rid, cost, h, aged)
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
  if #claimed > 0 then
    count_waiting(-#claimed, -taken_tokens)
    if count_running(#claimed) == #claimed then set_pace('mark', now) end
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
