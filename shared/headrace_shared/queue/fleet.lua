-- KEYS[1] is the fleet's base. Returns for each worker under lease its state, and the ms that are left; forgets the others.
local base = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local gone = redis.call('ZRANGEBYSCORE', base .. 'leases', '-inf', now, 'LIMIT', 0, 1000)
if #gone > 0 then
  redis.call('ZREM', base .. 'leases', unpack(gone))
  redis.call('HDEL', base .. 'states', unpack(gone))
end
local states, found = redis.call('HGETALL', base .. 'states'), {}
for i = 1, #states, 2 do
  local ends = redis.call('ZSCORE', base .. 'leases', states[i])
  found[#found + 1] = states[i + 1]
  found[#found + 1] = ends and tonumber(ends) - now or 0
end
return found
