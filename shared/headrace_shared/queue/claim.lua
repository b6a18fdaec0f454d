-- ARGV: worker nonce want max_cost lease_ms deadline_frame background_want background_max_cost (absent: as the others)
-- Returns after how many ms to ask again (0: no need), then one {rid, epoch, seq, priority, enqueued, claimed, attempt,
-- body} per claimed request. The same nonce again (a lost reply) gets the same requests again.
--
-- A call costs far more than what it does, so what can be read once is read once, and what adds up is written once:
-- a level's lanes are kept in Lua while they are served, in the order that Redis keeps them in, and written by flush().
local worker, nonce, room = ARGV[1], ARGV[2], tonumber(ARGV[4])
local want = math.min(tonumber(ARGV[3]), 1000)
-- What background requests may take of both.
local back_want, back_room = tonumber(ARGV[7] or ARGV[3]), tonumber(ARGV[8] or ARGV[4])
local now = now_ms()
local rows, claimed, taken_tokens, again = {}, {}, 0, 0
local full, company = false, nil
local pace = redis.call('HMGET', BASE .. 'pace', 'aging', 'turn', 'hold')
local aging, turn, hold = tonumber(pace[1] or '0'), tonumber(pace[2] or '0'), tonumber(pace[3] or '0')
local replay = BASE .. 'nonce:' .. worker
local last = redis.call('HMGET', replay, 'nonce', 'claimed', 'suspect')
local suspect = last[3] -- the one that this worker took last
local APART_MS = 100 -- how soon to ask again when a suspect is kept apart

local level -- the one being served
local passed = 0 -- levels before it of which something is left
local tenants, gone, gone_due = {}, {}, {} -- of what was taken since the last flush

local function open_lane(name, served)
  -- Two entries at first: whether there is another one after the first is then known without asking again.
  return {name = name, served = tonumber(served), entries = {}, at = 1, from = '-', batch = 2, gone = {}}
end

-- One lane more than can be picked: the last one is the horizon, behind which there may be others.
local function open_level(priority)
  local found = redis.call('ZRANGE', BASE .. 'lanes:' .. priority, 0, want, 'WITHSCORES')
  local lanes = {}
  for i = 1, #found, 2 do lanes[#lanes + 1] = open_lane(found[i], found[i + 1]) end
  local horizon = #lanes > want and {name = lanes[#lanes].name, served = lanes[#lanes].served}
  return {priority = priority, lanes = lanes, horizon = horizon, used = {}, taken = 0, cost = 0}
end

local function comes_after(one, other)
  if one.served ~= other.served then return one.served > other.served end
  return one.name > other.name
end

-- The first entry of a lane that was not handed out, or nil.
local function head(lane)
  if lane.at > #lane.entries and not lane.drained then
    lane.entries = redis.call('XRANGE', lane_key(level.priority, lane.name), lane.from, '+', 'COUNT', lane.batch)
    lane.at, lane.drained = 1, #lane.entries < lane.batch
    if not lane.drained then
      lane.from, lane.batch = '(' .. lane.entries[#lane.entries][1], math.min(lane.batch * 4, 128)
    end
  end
  return lane.entries[lane.at]
end

local function flush_lanes()
  local scores = {}
  for _, lane in ipairs(level.used) do
    if #lane.gone > 0 then redis.call('XDEL', lane_key(level.priority, lane.name), unpack(lane.gone)) end
    if lane.charged then
      scores[#scores + 1] = lane.served
      scores[#scores + 1] = lane.name
    end
  end
  if #scores > 0 then redis.call('ZADD', BASE .. 'lanes:' .. level.priority, 'XX', unpack(scores)) end
  for _, lane in ipairs(level.used) do
    if not head(lane) then
      redis.call('DEL', lane_key(level.priority, lane.name))
      rest_lane(level.priority, lane.name)
    end
  end
end

-- Writes what was taken from the level, and forgets it.
local function flush()
  if not level then return end
  if level.taken > 0 then
    redis.call('HINCRBY', BASE .. 'level:' .. level.priority, 'out', level.taken)
    redis.call('HINCRBY', BASE .. 'level:' .. level.priority, 'tokens', -level.cost)
  end
  if level.vtime then
    redis.call('SET', BASE .. 'vtime:' .. level.priority, level.vtime)
    redis.call('ZREMRANGEBYSCORE', BASE .. 'rest:' .. level.priority, '-inf', level.vtime)
  end
  for tenant, share in pairs(tenants) do count_share(-share.requests, tenant, -share.tokens) end
  if #gone > 0 then redis.call('ZREM', BASE .. 'age', unpack(gone)) end
  if #gone_due > 0 then redis.call('ZREM', BASE .. 'due', unpack(gone_due)) end
  flush_lanes()
  level, tenants, gone, gone_due = nil, {}, {}, {}
end

-- The first lane in order, or nil.
local function best_lane()
  while true do
    if not level then
      local priority = redis.call('ZRANGE', BASE .. 'prios', passed, passed)[1]
      if not priority then return nil end
      level = open_level(priority)
    end
    local lane = level.lanes[1]
    if lane and not (level.horizon and comes_after(lane, level.horizon)) then return lane end
    local done, priority = level, level.priority
    flush()
    if done.passed then passed = passed + 1
    elseif not done.horizon then redis.call('ZREM', BASE .. 'prios', priority) end
  end
end

-- A suspect is kept apart: until it is acquitted, its worker has no other that is not. Who dies then has done it.
local function holds_suspect()
  if not suspect or not redis.call('ZSCORE', BASE .. 'own:' .. worker, suspect) then return false end
  local h = redis.call('HMGET', request_key(suspect), 'seq', 'from')
  return h[1] and not is_acquitted(h[1], h[2])
end

local function may_take_suspect()
  if #claimed > 0 then return false end
  for _, rid in ipairs(redis.call('ZRANGE', BASE .. 'own:' .. worker, 0, -1)) do
    local h = redis.call('HMGET', request_key(rid), 'seq', 'from')
    if h[1] and not is_acquitted(h[1], h[2]) then return false end
  end
  return true
end

local function is_no_room_for_background(cost) return back_want < 1 or cost > back_room end

-- Nothing else of this lane is handed out, and no background request: those behind it must not starve it either.
local function pass_over(lane)
  back_want, level.passed = 0, true
  for i, candidate in ipairs(level.lanes) do
    if candidate == lane then table.remove(level.lanes, i) end
  end
end

-- With a bound on waiting, every eighth pick is for whoever waits longest, once that is longer than the bound.
local function aged_lane()
  if aging == 0 or turn % 8 ~= 0 then return nil end
  flush()
  local oldest = redis.call('ZRANGE', BASE .. 'age', 0, 0, 'WITHSCORES')
  if not oldest[1] or tonumber(oldest[2]) + aging > now then return nil end
  local h = redis.call('HMGET', request_key(oldest[1]), 'priority', 'lane', 'background', 'cost')
  if h[3] and is_no_room_for_background(tonumber(h[4])) then return nil end -- nobody waits for its sake
  local served = h[1] and redis.call('ZSCORE', BASE .. 'lanes:' .. h[1], h[2])
  if not served then
    redis.call('ZREM', BASE .. 'age', oldest[1]) -- its hash was lost
    return nil
  end
  local lane = open_lane(h[2], served)
  level = {priority = h[1], lanes = {lane}, horizon = lane, used = {}, taken = 0, cost = 0, aged = true}
  return lane
end

-- A worker that has served the beginning of this prompt lately, if it is another one and could take the request now.
local function better_owner(digests)
  local owner
  for digest in digests:gmatch('[^,]+') do owner = redis.call('GET', BASE .. 'aff:' .. digest) or owner end
  if not owner or owner == worker then return nil end
  local lease = redis.call('ZSCORE', BASE .. 'wk', owner)
  if not lease or tonumber(lease) <= now then return nil end
  local free = redis.call('HGET', BASE .. 'nonce:' .. owner, 'free')
  return free and tonumber(free) > 0 and owner
end

local function remember_owner(digests)
  if company == nil then company = redis.call('ZCARD', BASE .. 'wk') > 1 end
  if not company then return end -- whoever comes later has cached nothing yet, and this one takes it anyhow
  for digest in digests:gmatch('[^,]+') do redis.call('SET', BASE .. 'aff:' .. digest, worker, 'PX', 600000) end
end

local function charge(lane, cost)
  if is_returned(lane.name) then return end
  if not level.aged then level.vtime = lane.served end
  lane.served, lane.charged = lane.served + cost, true
  local lanes, i = level.lanes, 1
  while lanes[i] ~= lane do i = i + 1 end
  while lanes[i + 1] and comes_after(lane, lanes[i + 1]) do
    lanes[i], lanes[i + 1] = lanes[i + 1], lane
    i = i + 1
  end
end

local function drop_if_drained(lane)
  if head(lane) then return end
  for i, candidate in ipairs(level.lanes) do
    if candidate == lane then table.remove(level.lanes, i) end
  end
end

local function take(lane, rid, cost, h)
  -- By the clock, so that it never comes again: not when Redis has forgotten this claim, nor when it has forgotten all.
  local epoch, attempt = math.max(h[7] + 1, now), (h[9] or 0) + 1
  redis.call('HSET', request_key(rid), 'epoch', epoch, 'state', 'R', 'worker', worker, 'claimed', now,
    'from', h[3], 'attempts', attempt)
  lane.gone[#lane.gone + 1] = h[1]
  level.taken, level.cost = level.taken + 1, level.cost + cost
  taken_tokens, room, back_room = taken_tokens + cost, room - cost, back_room - cost
  if h[10] then back_want = back_want - 1 end
  local share = tenants[h[5]] or {requests = 0, tokens = 0}
  tenants[h[5]] = share
  share.requests, share.tokens = share.requests + 1, share.tokens + cost
  gone[#gone + 1] = rid
  if h[2] then gone_due[#gone_due + 1] = rid end
  if lane.name == SUSPECTS then suspect, full, again = rid, true, APART_MS end
  if h[8] and hold > 0 then remember_owner(h[8]) end
  turn = turn + 1
  claimed[#claimed + 1] = {rid, epoch}
  rows[#rows + 1] = {rid, epoch, h[3], level.priority, h[4], now, attempt}
  charge(lane, math.max(cost, 1) / (h[6] or 1))
end

-- Deals with one entry. False: nothing more can be claimed now.
local function step()
  local lane = aged_lane() or best_lane()
  if not lane then return false end
  if not lane.used then
    lane.used = true
    level.used[#level.used + 1] = lane
  end
  local entry = head(lane)
  if not entry then
    drop_if_drained(lane)
    return true
  end
  local rid, cost = entry[2][2], tonumber(entry[2][4])
  local h = redis.call('HMGET', request_key(rid), 'entry', 'deadline', 'seq', 'enqueued', 'tenant', 'weight', 'epoch',
    'affinity', 'attempts', 'background')
  local waited = now - (h[4] or 0)
  if h[1] ~= entry[1] then -- its hash was lost or deleted by hand
    lane.at = lane.at + 1
    leave_lane(level.priority, lane.name, entry[1])
    count_waiting(-1, -cost)
    redis.call('ZREM', BASE .. 'age', rid)
  elseif h[2] and tonumber(h[2]) <= now then
    lane.at = lane.at + 1
    stop_waiting(rid, level.priority, h[5], cost)
    leave_lane(level.priority, lane.name, entry[1])
    log_frame(rid, h[3] + 1, ARGV[6])
    finish(rid, now, false)
  elseif h[10] and is_no_room_for_background(cost) then
    pass_over(lane)
    return true
  elseif cost > room then -- wait for it rather than starve it with smaller ones
    full = true
    return false
  elseif lane.name == SUSPECTS and not may_take_suspect() then
    full, again = true, APART_MS
    return false
  elseif h[8] and waited < hold and better_owner(h[8]) then
    again = hold - waited
    return false
  else
    lane.at = lane.at + 1
    take(lane, rid, cost, h)
  end
  drop_if_drained(lane)
  if level.aged then flush() end
  return true
end

local function claim_anew()
  -- Bounded, so that a queue full of expired requests cannot hold up everybody else.
  if holds_suspect() then full, again = true, APART_MS end
  for _ = 1, want + 256 do
    if full or #claimed >= want or not step() then break end
  end
  flush()
  if #claimed > 0 then
    local own = {}
    for i, row in ipairs(rows) do own[2 * i - 1], own[2 * i] = row[5], row[1] end
    redis.call('ZADD', BASE .. 'own:' .. worker, unpack(own))
    count_waiting(-#claimed, -taken_tokens)
    if count_running(#claimed) == #claimed then set_pace('mark', now) end
    if aging > 0 then set_pace('turn', turn) end
    -- The owner may have looked when the head was somebody else's.
    if again > 0 then redis.call('SPUBLISH', BASE .. 'bell', '') end
  end
  redis.call('HSET', replay, 'nonce', nonce, 'claimed', cmsgpack.pack(claimed), 'free', full and 0 or want - #claimed)
  if suspect then redis.call('HSET', replay, 'suspect', suspect) end
  -- reap deletes it with the worker; the lifetime is for queues that nobody reads any more.
  redis.call('PEXPIRE', replay, 86400000)
end

local function claim_again(claims)
  for _, claim in ipairs(claims) do
    local h = redis.call('HMGET', request_key(claim[1]), 'epoch', 'worker', 'state', 'seq', 'priority', 'enqueued',
      'claimed', 'attempts')
    if h[1] == tostring(claim[2]) and h[2] == worker and h[3] == 'R' then
      rows[#rows + 1] = {claim[1], h[1], h[4], h[5], h[6], h[7], h[8]}
    end
  end
end

redis.call('ZADD', BASE .. 'wk', now + ARGV[5], worker)
if last[1] == nonce then claim_again(cmsgpack.unpack(last[2])) else claim_anew() end
if #rows > 0 then
  local bodies = {}
  for i, row in ipairs(rows) do bodies[i] = BASE .. 'body:' .. row[1] end
  bodies = redis.call('MGET', unpack(bodies))
  for i, row in ipairs(rows) do row[8] = bodies[i] or '' end
end
return {again, unpack(rows)}
