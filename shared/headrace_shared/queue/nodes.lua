-- KEYS[1] is the fleet's base. ARGV: node state keep_ms
-- Returns the states of all nodes that have told theirs within its keep_ms; forgets the others.
local base, node, state, keep = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', base .. 'node_ends', now + keep, node)
redis.call('HSET', base .. 'nodes', node, state)
local gone = redis.call('ZRANGEBYSCORE', base .. 'node_ends', '-inf', now, 'LIMIT', 0, 1000)
if #gone > 0 then
  redis.call('ZREM', base .. 'node_ends', unpack(gone))
  redis.call('HDEL', base .. 'nodes', unpack(gone))
end
return redis.call('HGETALL', base .. 'nodes')
