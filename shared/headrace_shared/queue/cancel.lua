-- ARGV: rid reason cancelled_frame
-- Returns 0 unknown or done, 1 was queued and is done now, 2 is running and its worker has been told.
local rid = ARGV[1]
local key = request_key(rid)
local h = redis.call('HMGET', key, 'state', 'seq', 'worker', 'cost')
if h[1] == 'Q' or h[1] == 'O' then
  redis.call('HSET', key, 'cancel', ARGV[2])
  tally(-1, -tonumber(h[4]), 0)
  log_frame(rid, h[2] + 1, ARGV[3])
  finish(rid, now_ms())
  return 1
end
if h[1] == 'R' then
  redis.call('HSET', key, 'cancel', ARGV[2])
  redis.call('PUBLISH', BASE .. 'ctl:' .. h[3], rid)
  return 2
end
return 0
