-- ARGV: worker lease_ms, then per frame: rid epoch seq final('1' or '0') frame
-- Returns status, last seq in the log, listeners for each frame, all in one flat list. Without frames it renews the lease.
-- Status: 0 fenced (another owner, or done), 1 appended, 2 cancelled (send a final frame), 3 was in the log already,
-- 4 gap (send from last seq + 1), 5 deadline passed (send a final frame).
local worker = ARGV[1]
local now = now_ms()
redis.call('ZADD', BASE .. 'wk', 'XX', now + ARGV[2], worker)

local function append(rid, epoch, seq, final, frame)
  local h = redis.call('HMGET', request_key(rid), 'state', 'epoch', 'worker', 'seq', 'cancel', 'deadline')
  local last = tonumber(h[4] or '0')
  if h[2] ~= epoch or h[3] ~= worker then return 0, last, 0 end
  if seq <= last then return 3, last, 0 end
  if h[1] ~= 'R' then return 0, last, 0 end
  if seq > last + 1 then return 4, last, 0 end
  if not final and h[5] then return 2, last, 0 end
  if not final and h[6] and tonumber(h[6]) <= now then return 5, last, 0 end
  local listeners = log_frame(rid, seq, frame)
  if final then
    finish(rid, now)
    redis.call('ZREM', BASE .. 'own:' .. worker, rid)
    tally(0, 0, -1)
  end
  return 1, seq, listeners
end

local reply = {}
for i = 3, #ARGV, 5 do
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] =
    append(ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3] == '1', ARGV[i + 4])
end
return reply
