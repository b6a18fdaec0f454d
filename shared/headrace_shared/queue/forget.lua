-- ARGV: ask_id rid...
-- Nobody will ask for these results again. One that is not done yet is left to whoever ends it, with a short life.
local SHORT_MS = 60000
for i = 2, #ARGV do
  local key = request_key(ARGV[i])
  local h = redis.call('HMGET', key, 'state', 'idem')
  if h[1] == 'D' then
    local idem = h[2] and BASE .. 'idem:' .. h[2]
    if idem and redis.call('HGET', idem, 'rid') == ARGV[i] then redis.call('DEL', idem) end
    redis.call('DEL', key, BASE .. 'out:' .. ARGV[i])
  elseif h[1] then
    redis.call('HSET', key, 'ttl', SHORT_MS)
    redis.call('HDEL', key, 'ask')
  end
end
redis.call('DEL', BASE .. 'ask:' .. ARGV[1])
return 0
