-- KEYS[1] is the fleet's base. ARGV: worker lease_ms state card_digest card keep_ms queue, then blob digests
-- Returns the blob digests that Redis no longer has.
local base = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', base .. 'leases', now + ARGV[2], ARGV[1])
redis.call('ZADD', base .. 'queues', now + ARGV[6], ARGV[7])
redis.call('PEXPIRE', base .. 'queues', ARGV[6])
redis.call('HSET', base .. 'states', ARGV[1], ARGV[3])
redis.call('SET', base .. 'card:' .. ARGV[4], ARGV[5], 'PX', ARGV[6])
local missing = {}
for i = 8, #ARGV do
  if redis.call('PEXPIRE', base .. 'blob:' .. ARGV[i], ARGV[6]) == 0 then missing[#missing + 1] = ARGV[i] end
end
return missing
