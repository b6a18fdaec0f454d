-- ARGV: worker lease_ms, then per frame: rid epoch seq mark frame
-- Mark: s nothing of the answer yet, t tokens, f<used> final with an answer, x<used> final without; used: tokens, or empty.
-- Returns status, last seq in the log, listeners for each frame, all in one flat list.
-- Status: 0 fenced (another owner, or done), 1 appended, 2 cancelled (send a final frame), 3 was in the log already,
-- 4 gap (send from last seq + 1), 5 deadline passed (send a final frame).
local worker = ARGV[1]
local now = now_ms()
redis.call('ZADD', BASE .. 'wk', 'XX', now + ARGV[2], worker)

-- Busy time is counted from the first claim of an idle queue on. Both sums fade, so that the pace is that of late.
local function keep_pace(cost)
  local h = redis.call('HMGET', BASE .. 'pace', 'mark', 'work', 'busy')
  local passed = math.max(now - tonumber(h[1] or now), 0)
  local fade = math.exp(-passed / 30000)
  set_pace('mark', now, 'work', (h[2] or 0) * fade + cost, 'busy', (h[3] or 0) * fade + passed)
end

-- The tenant was charged what the request might take; now it is known what it took.
local function settle(rid, used)
  local h = redis.call('HMGET', request_key(rid), 'cost', 'priority', 'tenant', 'weight')
  keep_pace(h[1])
  if not used then return end
  local change = (math.max(used, 1) - math.max(h[1], 1)) / (h[4] or 1)
  for _, order in ipairs({'lanes:', 'rest:'}) do
    if redis.call('ZSCORE', BASE .. order .. h[2], h[3]) then
      redis.call('ZINCRBY', BASE .. order .. h[2], change, h[3])
    end
  end
end

local function append(rid, epoch, seq, mark, frame)
  local h = redis.call('HMGET', request_key(rid), 'state', 'epoch', 'worker', 'seq', 'cancel', 'deadline', 'first')
  local kind = mark:sub(1, 1)
  local final = kind == 'f' or kind == 'x'
  local last = tonumber(h[4] or '0')
  if h[2] ~= epoch or h[3] ~= worker then return 0, last, 0 end
  if seq <= last then return 3, last, 0 end
  if h[1] ~= 'R' then return 0, last, 0 end
  if seq > last + 1 then return 4, last, 0 end
  if not final and h[5] then return 2, last, 0 end
  if not final and h[6] and tonumber(h[6]) <= now then return 5, last, 0 end
  local listeners = log_frame(rid, seq, frame)
  if kind ~= 's' and not h[7] then redis.call('HSET', request_key(rid), 'first', now) end
  if final then
    settle(rid, tonumber(mark:sub(2)))
    finish(rid, now, kind == 'f')
    redis.call('ZREM', BASE .. 'own:' .. worker, rid)
    count_running(-1)
  end
  return 1, seq, listeners
end

local reply = {}
for i = 3, #ARGV, 5 do
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] =
    append(ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4])
end
return reply
