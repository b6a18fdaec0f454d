-- KEYS[1]: the tenant's own key. ARGV: requests_per_minute tokens_per_minute (0: no limit) tokens
-- Returns {ms to wait (0: accepted and charged), requests left, ms until all are back, tokens left, the same}.
--
-- The generic cell rate algorithm: per limit one moment at which everything will be back (``until``). A request moves it
-- by its share of a minute; whatever would move it beyond a minute from now has to wait. Negative tokens give back.
local MINUTE = 60000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = redis.call('HMGET', KEYS[1], 'requests', 'tokens')
local tokens = tonumber(ARGV[3])

local function open_limit(rate, stored_until, wanted)
  rate = tonumber(rate)
  local since = math.max(tonumber(stored_until or '0'), now)
  if rate == 0 then return {rate = 0, until_ms = since, next_ms = since, wait = 0} end
  -- More than a minute's worth passes when nothing was used of late; it would never fit otherwise.
  local next_ms = math.max(since + math.min(wanted, rate) * MINUTE / rate, now)
  return {rate = rate, until_ms = since, next_ms = next_ms, wait = math.max(math.ceil(next_ms - now - MINUTE), 0)}
end

local limits = {
  open_limit(ARGV[1], stored[1], tokens < 0 and 0 or 1),
  open_limit(ARGV[2], stored[2], tokens),
}
local wait = math.max(limits[1].wait, limits[2].wait)
if wait == 0 then
  for _, limit in ipairs(limits) do limit.until_ms = limit.next_ms end
  redis.call('HSET', KEYS[1], 'requests', limits[1].until_ms, 'tokens', limits[2].until_ms)
  redis.call('PEXPIRE', KEYS[1], MINUTE + 1000)
end

local answer = {wait}
for _, limit in ipairs(limits) do
  local used_ms = limit.until_ms - now
  answer[#answer + 1] = math.max(math.floor(limit.rate - limit.rate * used_ms / MINUTE + 1e-6), 0)
  answer[#answer + 1] = math.ceil(used_ms)
end
return answer
