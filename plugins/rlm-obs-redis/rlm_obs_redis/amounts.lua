-- Exact amounts in a language whose only numbers are doubles: {whole, part} is whole + part / 1e15, with
-- 0 <= part < 1e15, so that -0.5 is {-1, 5e14}. Both are whole numbers below 2^53, which doubles hold exactly.

local PARTS = 1e15
local ZERO = {0, 0}

local function parse(text)
  local sign, whole, digits = string.match(text, '^(%-?)(%d+)%.?(%d*)$')
  local w, p = tonumber(whole), tonumber(digits .. string.rep('0', 15 - #digits))
  if sign == '' then return {w, p} end
  if p == 0 then return {0 - w, 0} end
  return {-1 - w, PARTS - p}
end

local function text(a)
  local sign, w, p = '', a[1], a[2]
  if w < 0 then
    sign = '-'
    if p == 0 then w = -w else w, p = -1 - w, PARTS - p end
  end
  if p == 0 then return string.format('%s%.0f', sign, w) end
  return sign .. string.format('%.0f.', w) .. string.gsub(string.format('%015.0f', p), '0+$', '')
end

local function add(a, b)
  local w, p = a[1] + b[1], a[2] + b[2]
  if p >= PARTS then return {w + 1, p - PARTS} end
  return {w, p}
end

local function sub(a, b)
  local w, p = a[1] - b[1], a[2] - b[2]
  if p < 0 then return {w - 1, p + PARTS} end
  return {w, p}
end

local function less(a, b)
  return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2])
end

local function is_zero(a)
  return a[1] == 0 and a[2] == 0
end

local function least_of(a, b)
  if less(b, a) then return b end
  return a
end

local function most_of(a, b)
  if less(a, b) then return b end
  return a
end

-- Tokens and calls are granted whole.
local function down(a, unit)
  if unit == 'usd' then return a end
  return {a[1], 0}
end

-- a / n for a >= 0 and a whole n up to 2^36, rounded down: long division, by digits of five figures.
local function divide(a, n)
  local rest = a[1] % n
  local quotient = {(a[1] - rest) / n, 0}
  for _, place in ipairs({1e10, 1e5, 1}) do
    local digit = math.floor(a[2] / place) % 1e5
    local carried = rest * 1e5 + digit
    rest = carried % n
    quotient[2] = quotient[2] + (carried - rest) / n * place
  end
  return quotient
end
