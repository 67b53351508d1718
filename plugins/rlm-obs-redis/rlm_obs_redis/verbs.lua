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

-- The limit that holds: the key's, else the program's own for it, else that of all keys, else the last one named.
local function limit_of(name, own, otherwise)
  local unit, key = split(name)
  local found = redis.call('HGET', LIMITS, 'set:' .. unit .. ':' .. key)
  if not found and own ~= '' then found = own end
  if not found then found = redis.call('HGET', LIMITS, 'set:' .. unit .. ':') end
  return found or otherwise
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
    number(is.opens)
end

-- An account with the limit that holds for it now, and whether there is one.
local function limited(name)
  local account = load(KEYS[4])
  local limit = limit_of(name, account.own, account.known and text(account.limit))
  if limit then account.limit = parse(limit) end
  return account, limit and true or false
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

function verbs.exchange(name, lease, n, limit, own, granted, spent, returns, wants, least, ttl, free, rolling, ends)
  local now, account = tick(LIMITS, true), load(KEYS[4])
  if evicted(account, name, now) then return {'lost'} end
  local ends_before, was_known = account.ends, account.known
  account.own = own == '1' and limit or ''
  local lent = exchange(account, {
    unit = (split(name)), lease = lease, number = tonumber(n), granted = parse(granted), spent = parse(spent),
    returns = parse(returns), wants = parse(wants), least = parse(least), ttl = tonumber(ttl), free = free == '1',
    rolling = tonumber(rolling), ends = tonumber(ends),
  }, parse(limit_of(name, account.own, limit)), now)
  if lent or was_known then keep(account, name, ends_before) end
  if not lent then return {'lost'} end
  local ended = redis.call('ZRANGEBYSCORE', INDEX, 0, number(now), 'LIMIT', 0, 16)
  return {'done', table.concat(ended, ' '), text(lent.granted), said(state(account, now, lease))}
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
  local now = tick(LIMITS, false)
  local account, has_limit = limited(name)
  if evicted(account, name, now) then return {'lost'} end
  if not account.known and not has_limit then return {'unknown'} end
  return {'done', said(state(account, now, ''))}
end

function verbs.accounts()
  local now = tick(LIMITS, false)
  redis.call('ZREMRANGEBYSCORE', INDEX, '(' .. number(-now), '(0')
  return {'done', redis.call('ZRANGE', INDEX, 0, -1)}
end

function verbs.change(name, what, amount, who)
  if redis.call('HEXISTS', LIMITS, 'since') == 0 then return {'undeclared'} end
  local now, unit, key = tick(LIMITS, true), split(name)
  if what == 'set' then
    local field = unit .. ':' .. key
    log(now, who, what, field .. ':', redis.call('HGET', LIMITS, 'set:' .. field) or nil, amount)
    redis.call('HSET', LIMITS, 'set:' .. field, amount)
    return {'done', said(state((limited(name)), now, ''))}
  end
  local account, has_limit = limited(name)
  if what == 'top-up' and evicted(account, name, now) then return {'lost'} end
  if not has_limit then return {'unlimited'} end
  let_go(account, now)
  if what == 'top-up' then
    local before = add(account.limit, account.extra)
    account.extra = add(account.extra, parse(amount))
    log(now, who, what, name, text(before), text(add(account.limit, account.extra)))
  else
    log(now, who, what, name, text(account.spent), '0')
    account.spent, account.slices = ZERO, {}
    for lease_name, lease in pairs(account.leases) do
      if lease.expires <= now and not is_zero(left(lease)) then free_lease(account, lease_name, lease) end
    end
    for _, field in ipairs(redis.call('HKEYS', KEYS[4])) do
      if string.sub(field, 1, 5) == 'mark:' then redis.call('HDEL', KEYS[4], field) end
    end
  end
  keep(account, name, account.ends)
  return {'done', said(state(account, now, ''))}
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
