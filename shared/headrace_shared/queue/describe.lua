-- ARGV: rid
-- Returns {} when it is unknown, else its fields (as below, '' for none), requests ahead of it (-1: it does not wait),
-- requests and tokens queued, work and busy ms of the pace.
local function values(key, ...)
  local found = redis.call('HMGET', key, ...)
  for i, value in ipairs({...}) do found[i] = found[i] or '' end
  return found
end

local h = values(request_key(ARGV[1]), 'state', 'priority', 'tenant', 'enqueued', 'claimed', 'first', 'finished',
  'attempts', 'lost', 'seq', 'answered', 'cancel', 'ticket')
if h[1] == '' then return {} end

local function waiting_on(priority)
  local level = redis.call('HMGET', BASE .. 'level:' .. priority, 'in', 'out')
  return tonumber(level[1] or '0') - tonumber(level[2] or '0')
end

local ticket = table.remove(h)
local ahead = -1
if h[1] == 'Q' or h[1] == 'O' then
  ahead = 0
  for _, priority in ipairs(redis.call('ZRANGEBYSCORE', BASE .. 'prios', '-inf', '(' .. h[2], 'LIMIT', 0, 1000)) do
    ahead = ahead + waiting_on(priority)
  end
  if h[1] == 'Q' then -- those to be continued are the first of their level
    local gone = redis.call('HGET', BASE .. 'level:' .. h[2], 'out') or '0'
    ahead = ahead + math.max(ticket - gone - 1, 0)
  end
end
h[#h + 1] = ahead
for _, value in ipairs(values(BASE .. 'cnt', 'requests', 'tokens')) do h[#h + 1] = value end
for _, value in ipairs(values(BASE .. 'pace', 'work', 'busy')) do h[#h + 1] = value end
return h
