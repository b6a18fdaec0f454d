-- What the transitions have in common. scripts.py puts this file in front of each of them.
--
-- KEYS[1] is the queue's base, "hr:{queue}:". Every other key is derived from it and so lies in the same hash slot.
-- keys.py lists the keys. A request is in exactly one state, the field "state" of its hash:
--   Q  queued, never claimed          R  running: in the own set of exactly one worker
--   O  queued again, owner was lost   D  done: the last frame of its log is terminal
-- Only Redis' clock is read, so that no host's clock matters.
local BASE = KEYS[1]
-- Lanes of what is to be continued, first in their level: all tenants' lanes begin with '=', and '~' sorts before '~!'.
local CONTINUATION = '~'
local SUSPECTS = '~!'
-- Frames of one attempt: what kills its worker does so at once, or at the same token again.
local ACQUITTING = 8

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function request_key(rid) return BASE .. 'req:' .. rid end

local function lane_key(priority, lane) return BASE .. 'q:' .. priority .. ':' .. lane end

-- Whether it has run well for a while in its present or last attempt, so that it is no danger to those beside it.
local function is_acquitted(seq, from) return seq - (from or seq) >= ACQUITTING end

local function is_returned(lane) return lane == CONTINUATION or lane == SUSPECTS end

local function count_waiting(requests, tokens)
  redis.call('HINCRBY', BASE .. 'cnt', 'requests', requests)
  redis.call('HINCRBY', BASE .. 'cnt', 'tokens', tokens)
end

local function count_running(change) return redis.call('HINCRBY', BASE .. 'cnt', 'running', change) end

-- What waits for this tenant.
local function count_share(requests, tenant, tokens)
  local tenants = BASE .. 'tenants'
  redis.call('HINCRBY', tenants, 't' .. tenant, tokens)
  if redis.call('HINCRBY', tenants, 'r' .. tenant, requests) <= 0 then
    redis.call('HDEL', tenants, 'r' .. tenant, 't' .. tenant)
  end
end

-- To be followed by leave_lane, which forgets the level when it was the last one there.
local function stop_waiting(rid, priority, tenant, cost)
  count_waiting(-1, -cost)
  count_share(-1, tenant, -cost)
  redis.call('HINCRBY', BASE .. 'level:' .. priority, 'out', 1)
  redis.call('ZREM', BASE .. 'age', rid)
  redis.call('ZREM', BASE .. 'due', rid)
end

local function set_pace(...)
  redis.call('HSET', BASE .. 'pace', ...)
  redis.call('PEXPIRE', BASE .. 'pace', 86400000)
end

-- A lane with nothing left to hand out leaves the order. How much service it had is remembered while others of its
-- priority still wait, so that emptying one's lane for a moment earns no advantage.
local function rest_lane(priority, lane)
  local lanes = BASE .. 'lanes:' .. priority
  local served = redis.call('ZSCORE', lanes, lane)
  if not served then return end
  redis.call('ZREM', lanes, lane)
  if redis.call('EXISTS', lanes) == 0 then
    redis.call('ZREM', BASE .. 'prios', priority)
    redis.call('DEL', BASE .. 'rest:' .. priority, BASE .. 'vtime:' .. priority, BASE .. 'level:' .. priority)
  elseif not is_returned(lane) then
    redis.call('ZADD', BASE .. 'rest:' .. priority, served, lane)
  end
end

-- Start-time fair queueing: a lane that joins starts at the virtual time, or where it stood when that is later.
local function join_order(priority, lane)
  local lanes = BASE .. 'lanes:' .. priority
  local start = '-inf'
  if not is_returned(lane) then
    local stood = redis.call('ZSCORE', BASE .. 'rest:' .. priority, lane) or '0'
    start = math.max(tonumber(redis.call('GET', BASE .. 'vtime:' .. priority) or '0'), tonumber(stood))
    redis.call('ZREM', BASE .. 'rest:' .. priority, lane)
  end
  redis.call('ZADD', lanes, start, lane)
  redis.call('ZADD', BASE .. 'prios', priority, priority)
end

-- Returns the id of the new lane entry, and which one it is on its level since that was last empty. The caller counts it.
local function enter_lane(rid, priority, lane, cost, enqueued)
  local key = lane_key(priority, lane)
  if not redis.call('ZSCORE', BASE .. 'lanes:' .. priority, lane) then join_order(priority, lane) end
  redis.call('ZADD', BASE .. 'age', enqueued, rid)
  local ticket = redis.call('HINCRBY', BASE .. 'level:' .. priority, 'in', 1)
  return redis.call('XADD', key, '*', 'r', rid, 'c', cost), ticket
end

-- Delete the entry of a request that waits; an empty lane disappears.
local function leave_lane(priority, lane, entry)
  local key = lane_key(priority, lane)
  redis.call('XDEL', key, entry)
  if redis.call('XLEN', key) == 0 then
    redis.call('DEL', key)
    rest_lane(priority, lane)
  end
end

-- The log first, the channel second: whoever hears of a frame can also read it. Returns the number of listeners.
local function log_frame(rid, seq, frame)
  redis.call('XADD', BASE .. 'out:' .. rid, seq .. '-0', 'd', frame)
  redis.call('HSET', request_key(rid), 'seq', seq)
  return redis.call('SPUBLISH', BASE .. 'tok:' .. rid, seq .. '|' .. frame)
end

-- What was asked for outlives the last of its jobs by as long as that one's log.
local function close_ask(id, ttl)
  local ask = BASE .. 'ask:' .. id
  if redis.call('HINCRBY', ask, 'open', -1) <= 0 then redis.call('PEXPIRE', ask, ttl) end
end

-- The request is done now, and has left its lane before. Its terminal frame must be in the log already.
-- Only an answer is worth coming back to: an idempotency key whose request has none is free again.
local function finish(rid, now, answered)
  local key = request_key(rid)
  local h = redis.call('HMGET', key, 'ttl', 'idem', 'ask')
  redis.call('DEL', BASE .. 'body:' .. rid)
  redis.call('HSET', key, 'state', 'D', 'finished', now, 'answered', answered and 1 or 0)
  if h[2] then
    local idem = BASE .. 'idem:' .. h[2]
    if answered then redis.call('PEXPIRE', idem, h[1])
    elseif redis.call('HGET', idem, 'rid') == rid then redis.call('DEL', idem) end
  end
  if h[3] then close_ask(h[3], h[1]) end
  redis.call('PEXPIRE', key, h[1])
  redis.call('PEXPIRE', BASE .. 'out:' .. rid, h[1])
end
