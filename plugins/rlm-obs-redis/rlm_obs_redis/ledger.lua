-- One account: what rlm_obs keeps as a Ledger, as a hash, and what a message does to it.
-- A lease is the field "lease:<name>": number, granted, spent, expires_at, free_if_lost, freed.

-- The server's clock, which never goes back: not even if a replica with a slower one takes over.
local function tick(limits_key, keep)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
  local latest = redis.call('HGET', limits_key, 'clock')
  if latest and tonumber(latest) >= now then return tonumber(latest) end
  if latest or keep then redis.call('HSET', limits_key, 'clock', string.format('%.17g', now)) end
  return now
end

local function number(value)
  if value == nil then return '' end
  return string.format('%.17g', value)
end

local function load_lease(said)
  local n, granted, spent, expires, free, freed = string.match(said, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
  return {
    number = tonumber(n), granted = parse(granted), spent = parse(spent), expires = tonumber(expires),
    free = free == '1', freed = freed == '1',
  }
end

local function left(lease)
  return sub(lease.granted, lease.spent)
end

local function load(account_key)
  local account = {
    key = account_key, known = false, said = '', own = '', spent = ZERO, extra = ZERO, leases = {}, slices = {},
    wanted_by = '', wanted_until = 0, changed = {}, gone = {},
  }
  local fields = redis.call('HGETALL', account_key)
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    account.known = true
    if string.sub(name, 1, 6) == 'lease:' then account.leases[string.sub(name, 7)] = load_lease(value)
    elseif name == 'spent' or name == 'extra' then account[name] = parse(value)
    elseif name == 'said' or name == 'own' or name == 'wanted_by' then account[name] = value
    elseif name == 'wanted_until' or name == 'rolling' or name == 'ends' then account[name] = tonumber(value)
    elseif name == 'slices' then
      for till, amount in string.gmatch(value, '(%S+) (%S+);') do
        account.slices[tonumber(till)] = parse(amount)
      end
    end
  end
  return account
end

local function save(account)
  local slices = {}
  for till, amount in pairs(account.slices) do
    table.insert(slices, number(till) .. ' ' .. text(amount) .. ';')
  end
  redis.call(
    'HSET', account.key, 'said', account.said, 'own', account.own, 'spent', text(account.spent),
    'extra', text(account.extra), 'slices', table.concat(slices), 'rolling', number(account.rolling),
    'ends', number(account.ends), 'wanted_by', account.wanted_by, 'wanted_until', number(account.wanted_until)
  )
  for name in pairs(account.gone) do redis.call('HDEL', account.key, 'lease:' .. name) end
  for name, lease in pairs(account.changed) do
    local free, freed = lease.free and '1' or '0', lease.freed and '1' or '0'
    redis.call('HSET', account.key, 'lease:' .. name, table.concat({
      number(lease.number), text(lease.granted), text(lease.spent), number(lease.expires), free, freed,
    }, ' '))
  end
end

local function give_back(account, name, lease)
  if is_zero(left(lease)) then return end
  lease.granted, lease.freed = lease.spent, true
  account.changed[name] = lease
end

local function spend(account, amount, at)
  account.spent = add(account.spent, amount)
  if not account.rolling or is_zero(amount) then return end
  local step = account.rolling / SLICES
  local till = (math.floor((at - math.fmod(at, step)) / step + 0.5) + 1) * step + account.rolling
  account.slices[till] = add(account.slices[till] or ZERO, amount)
end

-- Take back what lost leases had left, where it is free by now, and what a rolling window no longer counts.
local function let_go(account, now)
  local forgotten, over = {}, {}
  for name, lease in pairs(account.leases) do
    if lease.expires <= now then
      if lease.free or (account.rolling and lease.expires + account.rolling <= now) then
        give_back(account, name, lease)
      end
      if lease.expires + FORGET_S <= now then forgotten[name] = lease end
    end
  end
  for name, lease in pairs(forgotten) do
    spend(account, left(lease), lease.expires)
    account.leases[name], account.changed[name], account.gone[name] = nil, nil, true
  end
  for till in pairs(account.slices) do
    if till <= now then over[till] = true end
  end
  for till in pairs(over) do
    account.spent, account.slices[till] = sub(account.spent, account.slices[till]), nil
  end
end

-- The account as it is: `limit` is the one that holds, false where nobody has ever said one.
local function state(account, limit, now, asks)
  let_go(account, now)
  local spent, leased, leases, opens = account.spent, ZERO, 0, nil
  for till in pairs(account.slices) do opens = math.min(till, opens or till) end
  for _, lease in pairs(account.leases) do
    local rest = left(lease)
    if not is_zero(rest) then
      if lease.expires > now then
        leased, leases = add(leased, rest), leases + 1
      else
        spent = add(spent, rest)
        if account.rolling then opens = math.min(lease.expires + account.rolling, opens or math.huge) end
      end
    end
  end
  return {
    limit = add(limit and parse(limit) or ZERO, account.extra), spent = spent, leased = leased, leases = leases,
    now = now, wanted = account.wanted_until > now and account.wanted_by ~= asks, opens = opens,
    ends = account.ends,
  }
end

-- All that a lease wants while there is much, a share of what is left when there is little.
local function grant(account, message, limit, now)
  if not less(ZERO, message.wants) then return ZERO end
  local is = state(account, limit, now, '')
  local free = sub(sub(is.limit, is.spent), is.leased)
  local amount = ZERO
  if less(ZERO, free) then
    local share = divide(free, 2 * math.max(1, is.leases))
    amount = down(least_of(free, most_of(message.least, least_of(message.wants, share))), message.unit)
  end
  if not less(ZERO, amount) or less(amount, message.least) then
    account.wanted_by, account.wanted_until = message.lease, now + WANTED_S
    return ZERO
  end
  return amount
end

-- Enter what the owner of a lease has spent and gives back.
local function take_in(account, lease, message, now)
  lease.freed = lease.freed and less(lease.granted, message.granted) -- until its owner has learned of it
  if lease.number < message.number - 1 and not lease.freed then
    lease.granted = down(message.granted, message.unit) -- the store has lost messages: the process knows better
  end
  local spent = most_of(lease.spent, message.spent)
  spend(account, sub(spent, lease.spent), now)
  lease.number, lease.spent = message.number, spent
  lease.granted = most_of(lease.granted, spent) -- what was spent without a grant counts all the same
  local returned = most_of(ZERO, least_of(message.returns, left(lease)))
  lease.granted = sub(lease.granted, down(returned, message.unit))
  lease.expires, lease.free = now + message.ttl, message.free
end

-- The lease that a message is about; nil where it has a grant, and nothing is known of the account.
local function lease_of(account, message)
  local lease = account.leases[message.lease]
  if lease then return lease end
  if less(ZERO, message.granted) and not next(account.leases) and is_zero(account.spent) then return nil end
  lease = {number = 0, granted = ZERO, spent = ZERO, expires = 0, free = false, freed = false}
  account.leases[message.lease], account.changed[message.lease], account.gone[message.lease] = lease, lease, nil
  return lease
end
