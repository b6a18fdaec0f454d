-- KEYS[1]: base of the batches. ARGV: limit
-- Returns batches that are not done and that nobody owns, those first that have waited longest.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1] .. 'open', '-inf', now, 'LIMIT', 0, ARGV[1])
