-- KEYS[1]: base of the batches. ARGV: id epoch now_s items tokens model most_items most_tokens ('' = any)
-- From validating to in_progress, when the owner's quotas allow that. Returns 1 done, or it has another
-- status already, 0 fenced, 2 too many items, 3 too many tokens.
local BASE = KEYS[1]
local key = BASE .. 'batch:' .. ARGV[1]
local h = redis.call('HMGET', key, 'status', 'epoch', 'owner')
if h[2] ~= ARGV[2] then return 0 end
if h[1] ~= 'validating' then return 1 end
local items, tokens = 'i' .. h[3], 't' .. h[3]
local held = redis.call('HMGET', BASE .. 'enqueued', items, tokens)
if ARGV[7] ~= '' and (held[1] or 0) + ARGV[4] > tonumber(ARGV[7]) then return 2 end
if ARGV[8] ~= '' and (held[2] or 0) + ARGV[5] > tonumber(ARGV[8]) then return 3 end
redis.call('HINCRBY', BASE .. 'enqueued', items, ARGV[4])
redis.call('HINCRBY', BASE .. 'enqueued', tokens, ARGV[5])
redis.call('HSET', key, 'status', 'in_progress', 'in_progress_at', ARGV[3], 'total', ARGV[4], 'tokens', ARGV[5],
  'model', ARGV[6])
return 1
