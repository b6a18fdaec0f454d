-- KEYS[1]: base of the batches. ARGV: id owner record bytes created_ms expires_s most_bytes('' = any)
-- Returns 1 when the file is known now, 0 when the owner would have more than most_bytes.
-- A file that is known already is replaced: whoever finishes a batch again writes the same one again.
local BASE = KEYS[1]
local id, owner, bytes = ARGV[1], ARGV[2], tonumber(ARGV[4])
local key = BASE .. 'file:' .. id
local before = tonumber(redis.call('HGET', key, 'bytes') or '0')
local held = tonumber(redis.call('HGET', BASE .. 'stored', owner) or '0')
if ARGV[7] ~= '' and held - before + bytes > tonumber(ARGV[7]) then return 0 end
redis.call('HSET', key, 'd', ARGV[3], 'owner', owner, 'bytes', bytes)
redis.call('HINCRBY', BASE .. 'stored', owner, bytes - before)
redis.call('ZADD', BASE .. 'files:' .. owner, ARGV[5], id)
redis.call('ZADD', BASE .. 'expiry', ARGV[6], id)
redis.call('ZREM', BASE .. 'trash', 'files/' .. id)
return 1
