-- ARGV: rid reason cancelled_frame unless_heard('1', or '' = in any case)
-- Returns 0 unknown or done, 1 was not running and is done now, 2 is running and its worker has been told,
-- 3 somebody listens to it and nothing was changed.
local rid = ARGV[1]
local key = request_key(rid)
local now = now_ms()
local h = redis.call('HMGET', key, 'state', 'seq', 'worker', 'cost', 'priority', 'tenant', 'lane', 'entry')
if not h[1] or h[1] == 'D' then return 0 end
if ARGV[4] == '1' and redis.call('PUBSUB', 'SHARDNUMSUB', BASE .. 'tok:' .. rid)[2] > 0 then return 3 end

redis.call('HSET', key, 'cancel', ARGV[2])
if h[1] == 'R' then
  local lease = redis.call('ZSCORE', BASE .. 'wk', h[3])
  if lease and tonumber(lease) > now then
    redis.call('SPUBLISH', BASE .. 'ctl:' .. h[3], rid)
    return 2
  end
  -- Its worker is dead, and there may be no other that would reap it.
  redis.call('HDEL', key, 'worker')
  redis.call('ZREM', BASE .. 'own:' .. h[3], rid)
  count_running(-1)
else
  stop_waiting(rid, h[5], h[6], h[4])
  leave_lane(h[5], h[7], h[8])
end
log_frame(rid, h[2] + 1, ARGV[3])
finish(rid, now, false)
return 1
