-- KEYS[1]: base of the batches. ARGV: id owner spec created_ms input_file_id webhook('' = its end is told to nobody)
-- Returns 1 when the batch is there, 0 when its input file is not.
local BASE = KEYS[1]
local key = BASE .. 'batch:' .. ARGV[1]
if redis.call('EXISTS', key) == 1 then return 1 end
local input = BASE .. 'file:' .. ARGV[5]
if redis.call('EXISTS', input) == 0 then return 0 end
redis.call('HINCRBY', input, 'uses', 1)
redis.call('HSET', key, 'spec', ARGV[3], 'owner', ARGV[2], 'input', ARGV[5], 'status', 'validating')
if ARGV[6] ~= '' then redis.call('HSET', key, 'webhook', ARGV[6]) end
redis.call('ZADD', BASE .. 'batches:' .. ARGV[2], ARGV[4], ARGV[1])
redis.call('ZADD', BASE .. 'recent', ARGV[4], ARGV[1])
for _, old in ipairs(redis.call('ZRANGE', BASE .. 'recent', 0, -201)) do redis.call('ZREM', BASE .. 'recent', old) end
-- Nobody's, since so many seconds: far in the past, as scores are milliseconds.
redis.call('ZADD', BASE .. 'open', math.floor(ARGV[4] / 1000), ARGV[1])
return 1
