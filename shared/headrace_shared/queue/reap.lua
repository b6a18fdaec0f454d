-- ARGV: caller lease_ms victim('' = any worker whose lease ended) limit poisoned_frame cancelled_frame deadline_frame
-- Returns {requests put back into the queue, 1 when there is more to do}.
-- With a victim it is that worker giving back what it holds of its own accord: no delivery counts as lost.
local caller, victim, limit = ARGV[1], ARGV[3], tonumber(ARGV[4])
local voluntary = victim ~= ''
local now = now_ms()
local put_back = 0
local MOST_LOST = 64

local function end_with(rid, seq, frame)
  log_frame(rid, seq + 1, frame)
  finish(rid, now, false)
end

-- With what is needed to enqueue it again, and the last frames, each under its number, to see how it died.
local function bury(rid, h)
  local key = request_key(rid)
  local kept = redis.call('HMGET', key, 'ttl', 'weight')
  local entry = {'r', rid, 'worker', victim, 'lost', h[4], 'max', h[5], 'seq', h[2], 'ttl', kept[1],
    'weight', kept[2] or '1', 'body', redis.call('GET', BASE .. 'body:' .. rid) or ''}
  for _, frame in ipairs(redis.call('XREVRANGE', BASE .. 'out:' .. rid, '+', '-', 'COUNT', 8)) do
    entry[#entry + 1] = frame[1]:match('^%d+')
    entry[#entry + 1] = frame[2][2]
  end
  redis.call('XADD', BASE .. 'dlq', 'MAXLEN', '~', 10000, '*', unpack(entry))
  end_with(rid, h[2], ARGV[5])
end

-- Two more losses convict a suspect, and claim keeps it apart: the innocent are not convicted with it.
local function put_back_request(rid, lost, max)
  local key = request_key(rid)
  local lane = lost >= math.max(max - 2, 1) and SUSPECTS or CONTINUATION
  local h = redis.call('HMGET', key, 'priority', 'tenant', 'cost', 'enqueued', 'deadline')
  local entry = enter_lane(rid, h[1], lane, h[3], h[4])
  count_waiting(1, h[3])
  count_share(1, h[2], h[3])
  redis.call('HSET', key, 'state', 'O', 'lane', lane, 'entry', entry)
  if h[5] then redis.call('ZADD', BASE .. 'due', h[5], rid) end
  put_back = put_back + 1
end

local function take_from_victim(rid)
  local key = request_key(rid)
  local h = redis.call('HMGET', key, 'state', 'seq', 'worker', 'lost', 'max', 'cancel', 'from')
  if h[1] ~= 'R' or h[3] ~= victim then return end
  if not voluntary then
    h[4] = redis.call('HINCRBY', key, 'lost', 1)
    -- What runs well for so long has not killed its worker, or lives long enough to be finished by a few of them.
    if is_acquitted(h[2], h[7]) and tonumber(h[5]) < MOST_LOST then
      h[5] = redis.call('HINCRBY', key, 'max', 1)
    end
  end
  redis.call('HDEL', key, 'worker') -- the fence: append compares it
  count_running(-1)
  if h[6] then end_with(rid, h[2], ARGV[6])
  elseif tonumber(h[4]) >= tonumber(h[5]) then bury(rid, h)
  else put_back_request(rid, tonumber(h[4]), tonumber(h[5])) end
end

local function expire_queued()
  local due = redis.call('ZRANGEBYSCORE', BASE .. 'due', '-inf', now, 'LIMIT', 0, limit)
  for _, rid in ipairs(due) do
    local h = redis.call('HMGET', request_key(rid), 'state', 'seq', 'cost', 'priority', 'tenant', 'lane', 'entry')
    if h[1] == 'Q' or h[1] == 'O' then
      stop_waiting(rid, h[4], h[5], h[3])
      leave_lane(h[4], h[6], h[7])
      end_with(rid, h[2], ARGV[7])
    else
      redis.call('ZREM', BASE .. 'due', rid)
    end
  end
  return #due == limit
end

redis.call('ZADD', BASE .. 'wk', 'XX', now + ARGV[2], caller)
local more = false
if not voluntary then
  more = expire_queued()
  victim = redis.call('ZRANGEBYSCORE', BASE .. 'wk', '-inf', now, 'LIMIT', 0, 1)[1]
  if not victim then return {0, more and 1 or 0} end
end

-- Oldest first, so that the continuation lane keeps their order.
local own = BASE .. 'own:' .. victim
local rids = redis.call('ZRANGE', own, 0, limit - 1)
for _, rid in ipairs(rids) do
  take_from_victim(rid)
  redis.call('ZREM', own, rid)
end
if redis.call('EXISTS', own) == 0 then
  redis.call('ZREM', BASE .. 'wk', victim)
  redis.call('DEL', BASE .. 'nonce:' .. victim)
  more = more or not voluntary -- there may be another one
else
  more = true
end
if put_back > 0 then redis.call('SPUBLISH', BASE .. 'bell', '') end
return {put_back, more and 1 or 0}
