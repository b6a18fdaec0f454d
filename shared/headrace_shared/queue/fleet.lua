-- KEYS[1] is the fleet's base. Returns the state of each worker under lease; forgets the others.
local base = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local gone = redis.call('ZRANGEBYSCORE', base .. 'leases', '-inf', now, 'LIMIT', 0, 1000)
if #gone > 0 then
  redis.call('ZREM', base .. 'leases', unpack(gone))
  redis.call('HDEL', base .. 'states', unpack(gone))
end
return redis.call('HVALS', base .. 'states')
