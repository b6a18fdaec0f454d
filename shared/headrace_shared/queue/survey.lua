-- ARGV: most tenants to name
-- Returns {priorities: priority, requests, tokens, ms that the oldest has waited (-1: not known) each; tenants with most requests: lane, requests, tokens each; dead letters}.
local MOST_PRIORITIES, MOST_TENANTS, MOST_LANES = 256, 4096, 128 -- a survey blocks all of Redis while it runs
local lanes_seen = 0

-- Of the first requests of its lanes.
local function oldest_ms(priority)
  local lanes = redis.call('ZRANGE', BASE .. 'lanes:' .. priority, 0, MOST_LANES)
  lanes_seen = lanes_seen + #lanes
  if lanes_seen > MOST_LANES then return -1 end
  local oldest
  for _, lane in ipairs(lanes) do
    local first = redis.call('XRANGE', lane_key(priority, lane), '-', '+', 'COUNT', 1)[1]
    local since = first and tonumber(redis.call('ZSCORE', BASE .. 'age', first[2][2]) or nil)
    if since and (not oldest or since < oldest) then oldest = since end
  end
  return oldest and math.max(now_ms() - oldest, 0) or -1
end

local priorities = {}
for _, priority in ipairs(redis.call('ZRANGE', BASE .. 'prios', 0, MOST_PRIORITIES - 1)) do
  local level = redis.call('HMGET', BASE .. 'level:' .. priority, 'in', 'out', 'tokens')
  local waiting = tonumber(level[1] or '0') - tonumber(level[2] or '0')
  for _, value in ipairs({priority, waiting, tonumber(level[3] or '0'), oldest_ms(priority)}) do
    priorities[#priorities + 1] = value
  end
end

local tenants = {}
if redis.call('HLEN', BASE .. 'tenants') <= 2 * MOST_TENANTS then
  local fields, shares, order = redis.call('HGETALL', BASE .. 'tenants'), {}, {}
  for i = 1, #fields, 2 do
    local lane = fields[i]:sub(2)
    if not shares[lane] then
      shares[lane] = {lane = lane, r = 0, t = 0}
      order[#order + 1] = shares[lane]
    end
    shares[lane][fields[i]:sub(1, 1)] = tonumber(fields[i + 1])
  end
  table.sort(order, function(a, b) return a.r > b.r or (a.r == b.r and a.lane < b.lane) end)
  for i = 1, math.min(#order, tonumber(ARGV[1])) do
    for _, value in ipairs({order[i].lane, order[i].r, order[i].t}) do tenants[#tenants + 1] = value end
  end
end
return {priorities, tenants, redis.call('XLEN', BASE .. 'dlq')}
