-- KEYS[1] is the fleet's base. Returns every queue that was announced within its keep_ms; forgets the others.
local queues = KEYS[1] .. 'queues'
local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', queues, '-inf', time[1] * 1000 + math.floor(time[2] / 1000))
return redis.call('ZRANGE', queues, 0, -1)
