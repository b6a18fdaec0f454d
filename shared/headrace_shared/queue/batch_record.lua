-- KEYS[1]: base of the batches. ARGV: id epoch segment parts completed failed input cached output reasoning line...
-- Makes a segment of results count: its lines are done from now on. Returns 1 done, 0 fenced, 2 some line is done
-- already and nothing was changed.
local BASE = KEYS[1]
local id = ARGV[1]
local key, segments, done = BASE .. 'batch:' .. id, BASE .. 'segments:' .. id, BASE .. 'done:' .. id
if redis.call('HGET', key, 'epoch') ~= ARGV[2] then return 0 end
if redis.call('HEXISTS', segments, ARGV[3]) == 1 then return 1 end
if not redis.call('ZSCORE', BASE .. 'open', id) then return 0 end
for i = 11, #ARGV do
  if redis.call('GETBIT', done, ARGV[i]) == 1 then return 2 end
end
for i = 11, #ARGV do redis.call('SETBIT', done, ARGV[i], 1) end
redis.call('HSET', segments, ARGV[3], ARGV[4])
local fields = {'completed', 'failed', 'input_tokens', 'cached_tokens', 'output_tokens', 'reasoning_tokens'}
for i, field in ipairs(fields) do
  local more = tonumber(ARGV[4 + i])
  if more > 0 then
    redis.call('HINCRBY', key, field, more)
    redis.call('HINCRBY', BASE .. 'totals', i > 2 and field or field .. '_items', more)
  end
end
return 1
