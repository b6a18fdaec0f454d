-- KEYS[1]: base of the batches. ARGV: id now_ms
-- Returns 1 when it is removed, 0 when there is no such file, 2 when a batch that is not done reads it.
-- Its bytes are to be deleted now; should that fail, they are in the trash.
local BASE = KEYS[1]
local id = ARGV[1]
local key = BASE .. 'file:' .. id
local h = redis.call('HMGET', key, 'owner', 'bytes', 'uses')
if not h[1] then return 0 end
if tonumber(h[3] or '0') > 0 then return 2 end
if redis.call('HINCRBY', BASE .. 'stored', h[1], -h[2]) <= 0 then redis.call('HDEL', BASE .. 'stored', h[1]) end
redis.call('DEL', key)
redis.call('ZREM', BASE .. 'files:' .. h[1], id)
redis.call('ZREM', BASE .. 'expiry', id)
redis.call('ZADD', BASE .. 'trash', ARGV[2], 'files/' .. id)
return 1
