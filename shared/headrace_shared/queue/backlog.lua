-- Returns requests and tokens queued, running, how long the oldest has waited (ms), work and busy ms of the pace.
local counts = redis.call('HMGET', BASE .. 'cnt', 'requests', 'tokens', 'running')
local pace = redis.call('HMGET', BASE .. 'pace', 'work', 'busy')
local oldest = redis.call('ZRANGE', BASE .. 'age', 0, 0, 'WITHSCORES')[2]
local waited = oldest and math.max(now_ms() - tonumber(oldest), 0) or 0
return {tonumber(counts[1] or '0'), tonumber(counts[2] or '0'), tonumber(counts[3] or '0'), waited, pace[1] or '0',
  pace[2] or '0'}
