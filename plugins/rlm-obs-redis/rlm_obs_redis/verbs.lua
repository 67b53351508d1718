-- The verbs of a budget store. Each call of the script is one verb, and one atomic step.
-- KEYS: the budget's limits (a hash, with its clock), its audit log (a list), the index of its accounts (a sorted set),
-- and the account (a hash). ARGV: the verb, then what it takes. The answer begins with what came of it.
--
-- The index is the witness of what was evicted: it has no time to live, an account whose window has ended has.
-- Its score is when the window ends (+inf without one), and below 0 for an account that expires: minus that time.

local LIMITS, HISTORY, INDEX = KEYS[1], KEYS[2], KEYS[3]

local function split(name)
  local unit, key = string.match(name, '^([^:]*):([^:]*)')
  return unit, key
end

-- The limit that holds: the key's, else the program's own for it, else that of all keys, else what was said last.
local function limit_of(account, name)
  local unit, key = split(name)
  local found = redis.call('HGET', LIMITS, 'set:' .. unit .. ':' .. key)
  if not found and account.own == '1' then found = account.said end
  if not found then found = redis.call('HGET', LIMITS, 'set:' .. unit .. ':') end
  if not found and account.said ~= '' then found = account.said end
  return found
end

local function evicted(account, name, now)
  if account.known then return false end
  local score = redis.call('ZSCORE', INDEX, name)
  if not score then return false end
  score = tonumber(score)
  return not (score and score < 0 and -score <= now)
end

local function keep(account, name, ends_before)
  save(account)
  if account.known and account.ends == ends_before then return end
  redis.call('ZADD', INDEX, account.ends and number(account.ends) or '+inf', name)
end

local function log(now, who, what, name, before, after)
  redis.call('RPUSH', HISTORY, cjson.encode({
    at = number(now), who = who, what = what, account = name, before = before, after = after,
  }))
end

local function said(is)
  return text(is.limit), text(is.spent), text(is.leased), number(is.leases), number(is.now), is.wanted and '1' or '0',
    number(is.opens), number(is.ends)
end

local verbs = {}

-- ARGV from the fourth on: a limit's unit and key, its amount, and so on.
function verbs.declare(on_change, who)
  local now, before = tick(LIMITS, true), {}
  for i = 4, #ARGV, 2 do
    before[i] = redis.call('HGET', LIMITS, 'declared:' .. ARGV[i])
    if before[i] and before[i] ~= ARGV[i + 1] and on_change == 'refuse' then
      return {'conflict', ARGV[i], before[i], ARGV[i + 1]}
    end
  end
  redis.call('HSETNX', LIMITS, 'since', number(now))
  for i = 4, #ARGV, 2 do
    local name, limit = ARGV[i], ARGV[i + 1]
    if before[i] ~= limit and not (before[i] and on_change == 'keep') then
      local held = redis.call('HGET', LIMITS, 'set:' .. name) or nil
      log(now, who, before[i] and 'declared' or 'created', name .. ':', held, limit)
      redis.call('HSET', LIMITS, 'declared:' .. name, limit, 'set:' .. name, limit)
    end
  end
  return {'done'}
end

function verbs.exchange(name, lease_name, n, limit, own, granted, spent, returns, wants, least, ttl, free, rolling, ends)
  local now, account = tick(LIMITS, true), load(KEYS[4])
  if evicted(account, name, now) then return {'lost'} end
  local message, ends_before = {
    unit = (split(name)), lease = lease_name, number = tonumber(n), granted = parse(granted), spent = parse(spent),
    returns = parse(returns), wants = parse(wants), least = parse(least), ttl = tonumber(ttl), free = free == '1',
  }, account.ends
  let_go(account, now)
  local lease = lease_of(account, message)
  if not lease then return {'lost'} end
  if message.number > lease.number then
    account.changed[lease_name] = lease
    account.said, account.own, account.rolling, account.ends = limit, own, tonumber(rolling), tonumber(ends)
    take_in(account, lease, message, now)
    lease.granted = add(lease.granted, grant(account, message, limit_of(account, name), now))
  end
  keep(account, name, ends_before)
  local ended = redis.call('ZRANGEBYSCORE', INDEX, 0, number(now), 'LIMIT', 0, 16)
  local is = state(account, limit_of(account, name), now, lease_name)
  return {'done', table.concat(ended, ' '), text(lease.granted), said(is)}
end

-- KEYS from the fourth on: accounts whose windows have ended; ARGV from the second on: their names.
function verbs.expire()
  local now = tick(LIMITS, true)
  redis.call('ZREMRANGEBYSCORE', INDEX, '(' .. number(-now), '(0')
  for i = 4, #KEYS do
    local name = ARGV[i - 2]
    local ends = tonumber(redis.call('ZSCORE', INDEX, name) or '')
    if ends and ends >= 0 and ends <= now then
      local until_s = math.ceil(ends + KEEP_ENDED_S)
      redis.call('EXPIREAT', KEYS[i], string.format('%.0f', until_s))
      redis.call('ZADD', INDEX, number(-until_s), name)
    end
  end
  return {'done'}
end

function verbs.read(name)
  local now, account = tick(LIMITS, false), load(KEYS[4])
  if evicted(account, name, now) then return {'lost'} end
  local limit = limit_of(account, name)
  if not limit then return {'unknown'} end
  return {'done', said(state(account, limit, now, ''))}
end

function verbs.accounts()
  local now = tick(LIMITS, false)
  redis.call('ZREMRANGEBYSCORE', INDEX, '(' .. number(-now), '(0')
  return {'done', redis.call('ZRANGE', INDEX, 0, -1)}
end

function verbs.change(name, what, amount, who)
  if redis.call('HEXISTS', LIMITS, 'since') == 0 then return {'undeclared'} end
  local now, account = tick(LIMITS, true), load(KEYS[4])
  if what == 'set' then
    local unit, key = split(name)
    local field = unit .. ':' .. key
    log(now, who, what, field .. ':', redis.call('HGET', LIMITS, 'set:' .. field) or nil, amount)
    redis.call('HSET', LIMITS, 'set:' .. field, amount)
    return {'done', said(state(account, amount, now, ''))}
  end
  if what == 'top-up' and evicted(account, name, now) then return {'lost'} end
  local limit = limit_of(account, name)
  if not limit and not evicted(account, name, now) then return {'unlimited'} end
  local before = state(account, limit, now, '')
  if what == 'top-up' then
    account.extra = add(account.extra, parse(amount))
  else
    account.spent, account.slices = ZERO, {}
    for lease_name, lease in pairs(account.leases) do
      if lease.expires <= now then give_back(account, lease_name, lease) end
    end
    for _, field in ipairs(redis.call('HKEYS', KEYS[4])) do
      if string.sub(field, 1, 5) == 'mark:' then redis.call('HDEL', KEYS[4], field) end
    end
  end
  local after, side = state(account, limit, now, ''), what == 'top-up' and 'limit' or 'spent'
  log(now, who, what, name, text(before[side]), text(after[side]))
  keep(account, name, account.ends)
  return {'done', said(after)}
end

function verbs.history()
  return {'done', redis.call('LRANGE', HISTORY, 0, -1)}
end

function verbs.once(name, mark)
  local now, account = tick(LIMITS, true), load(KEYS[4])
  if evicted(account, name, now) then return {'lost'} end
  if not account.known then keep(account, name, nil) end
  return {'done', redis.call('HSETNX', KEYS[4], 'mark:' .. mark, number(now))}
end

return verbs[ARGV[1]](unpack(ARGV, 2, math.min(#ARGV, 20)))
