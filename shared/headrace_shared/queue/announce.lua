-- KEYS[1] is the fleet's base. ARGV: worker lease_ms state card_digest card keep_ms, then blob digests
-- Returns the blob digests that Redis no longer has.
local base = KEYS[1]
local time = redis.call('TIME')
redis.call('ZADD', base .. 'leases', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2], ARGV[1])
redis.call('HSET', base .. 'states', ARGV[1], ARGV[3])
redis.call('SET', base .. 'card:' .. ARGV[4], ARGV[5], 'PX', ARGV[6])
local missing = {}
for i = 7, #ARGV do
  if redis.call('PEXPIRE', base .. 'blob:' .. ARGV[i], ARGV[6]) == 0 then missing[#missing + 1] = ARGV[i] end
end
return missing
