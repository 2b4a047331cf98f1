"""The Lua scripts of the bus on Redis: the server runs each of them atomically."""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple

__all__ = [
    "ALL",
    "ENTER",
    "EXPIRED",
    "LEAVE",
    "MEMBERS",
    "PUBLISH",
    "RENEW",
    "REPORT_LOSS",
    "SINCE",
    "SYNC",
    "Call",
    "Script",
]


class Script:
    """A script, which is sent to the server once and named by its digest from then on."""

    def __init__(self, text: str, **constants: int) -> None:
        for name, value in constants.items():
            text = text.replace(name, str(value))
        self.text = text
        self.digest: str = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# In all of these KEYS are the hash and the stream of a channel, ARGV[1] the name under which it is
# published, ARGV[2] an epoch to use if there is none. TTL (seconds), LIMIT (messages), RUNS and
# SENDERS are the bus's; AT_ONCE messages are read from the stream at once.
_FIND: Final = """
local found = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'runs')
local epoch, offset = found[1], found[2] or '0'
"""
_BEGIN: Final = """
if not epoch then
  epoch, offset = ARGV[2], '0'
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', offset)
end
"""
_STORED: Final = """
local missed = tonumber(offset) - tonumber(ARGV[4])
if epoch ~= ARGV[3] or missed < 0 or missed > LIMIT then return {epoch, offset, {}} end
local entries, size, from = {}, 0, ARGV[4]
while true do
  local some = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', AT_ONCE)
  for _, entry in ipairs(some) do
    table.insert(entries, entry)
    size = size + #entry[2][2]
    if size >= tonumber(ARGV[5]) and #entries > 1 then return {epoch, offset, entries} end
  end
  if #some < AT_ONCE then return {epoch, offset, entries} end
  from = string.format('%.0f', string.match(some[#some][1], '^%d+') + 1)
end
"""
# ARGV: payload, sender, the sender's number of the message, how many bytes of messages may be kept,
# and if it has an order: run, rev, and the run that it ended or ''. A sender whose connection broke
# sends again what may have arrived, and what was on its way may even arrive after that: numbers
# only rise. Returns how many bytes are kept: 0 if nobody listens or has listened within TTL, since
# the channel is gone then. (Receivers on other nodes of a cluster are not seen; they notice
# that an epoch has begun.)
PUBLISH: Final = (
    """
local sender = 'from ' .. ARGV[4]
local found = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'runs', 'bytes', 'total', sender)
local epoch, offset, number = found[1], found[2] or '0', found[6]
local told
if not epoch then
  told = redis.call('PUBLISH', ARGV[1], ARGV[2] .. ' 1 ' .. ARGV[3])
  if told == 0 then return 0 end
end
"""
    + _BEGIN
    + """
if number and tonumber(number) >= tonumber(ARGV[5]) then return end
if not number and redis.call('HLEN', KEYS[1]) > SENDERS then
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, 5) == 'from ' then redis.call('HDEL', KEYS[1], field) end
  end
end
local admitted = true
local changes = {sender, ARGV[5]}
local function set(field, value)
  table.insert(changes, field)
  table.insert(changes, value)
end
if ARGV[7] then
  local runs = cjson.decode(found[3] or '[]')
  local rev = -1
  local function remember(run, value)
    for at, known in ipairs(runs) do
      if known[1] == run then table.remove(runs, at) break end
    end
    table.insert(runs, {run, value})
    if #runs > RUNS then table.remove(runs, 1) end
  end
  for _, known in ipairs(runs) do
    if known[1] == ARGV[7] then rev = tonumber(known[2]) end
  end
  -- A run that is over has no rev.
  admitted = rev and tonumber(ARGV[8]) > rev
  if admitted then remember(ARGV[7], ARGV[8]) end
  if ARGV[9] ~= '' then remember(ARGV[9], 'over') end
  set('runs', cjson.encode(runs))
end
local bytes = tonumber(found[4] or 0)
if admitted then
  local at, size, most = offset + 1, #ARGV[3], tonumber(ARGV[6])
  offset = string.format('%.0f', at)
  -- Each entry has the bytes of all messages up to it.
  local total = tonumber(found[5] or 0) + size
  redis.call(
    'XADD', KEYS[2], 'MAXLEN', LIMIT, offset .. '-0',
    'payload', ARGV[3], 'total', string.format('%.0f', total)
  )
  -- Those that are dropped by number are discounted only now and then, since that takes time.
  bytes = bytes + size
  local checks = bytes > most or at % 64 == 0
  while checks do
    local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
    bytes = total - (oldest[2][4] or total) + #oldest[2][2]
    checks = bytes > most and oldest[1] ~= offset .. '-0'
    if checks then redis.call('XDEL', KEYS[2], oldest[1]) end
  end
  set('offset', offset)
  set('bytes', bytes)
  set('total', string.format('%.0f', total))
end
redis.call('HSET', KEYS[1], unpack(changes))
redis.call('EXPIRE', KEYS[1], TTL)
redis.call('EXPIRE', KEYS[2], TTL)
if admitted and not told then
  redis.call('PUBLISH', ARGV[1], epoch .. ' ' .. offset .. ' ' .. ARGV[3])
end
return bytes
"""
)
# Begins an epoch, so that all receivers learn that messages of the channel are lost.
REPORT_LOSS: Final = """
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'offset', 0)
redis.call('EXPIRE', KEYS[1], TTL)
redis.call('PUBLISH', ARGV[1], ARGV[2] .. ' 0 ')
"""
# ARGV: epoch and offset of a position, or '', and a number of bytes. Returns epoch and offset of
# the newest message, and the stored messages after the position that take about so many bytes,
# with the one just before them.
SYNC: Final = (
    _FIND
    + _BEGIN
    + """
redis.call('EXPIRE', KEYS[1], TTL)
redis.call('EXPIRE', KEYS[2], TTL)
"""
    + _STORED
)
# The same, without a new epoch and without extending the expiry.
SINCE: Final = (
    """
local found = redis.call('HMGET', KEYS[1], 'epoch', 'offset')
local epoch, offset = found[1] or '', found[2] or '0'
"""
    + _STORED
)

# In all of these KEYS are a sorted set of members by the time in milliseconds at which they expire,
# and a hash of their infos. Times are the server's, since the clocks of machines differ.
_NOW: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function last()
  local newest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
  if newest[2] then
    redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', newest[2] + 86400000))
    redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', newest[2] + 86400000))
  end
end
"""
# ARGV: milliseconds, member, info.
ENTER: Final = (
    _NOW
    + """
local before = redis.call('ZSCORE', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[1]), ARGV[2])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
last()
if before and tonumber(before) > now then return 0 end
return 1
"""
)
# ARGV: milliseconds, members.
RENEW: Final = (
    _NOW
    + """
local missing = {}
for at = 2, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[at]) then
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[1]), ARGV[at])
  else
    table.insert(missing, ARGV[at])
  end
end
last()
return missing
"""
)
# ARGV: member.
LEAVE: Final = """
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('ZREM', KEYS[1], ARGV[1])
"""
MEMBERS: Final = (
    _NOW
    + """
local found = {}
local after = '(' .. string.format('%.0f', now)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], after, '+inf')) do
  table.insert(found, member)
  table.insert(found, redis.call('HGET', KEYS[2], member) or '')
end
return found
"""
)
EXPIRED: Final = (
    _NOW
    + """
local found = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))) do
  table.insert(found, member)
  table.insert(found, redis.call('HGET', KEYS[2], member) or '')
  redis.call('ZREM', KEYS[1], member)
  redis.call('HDEL', KEYS[2], member)
end
return found
"""
)
ALL: Final = (PUBLISH, REPORT_LOSS, SYNC, SINCE, ENTER, RENEW, LEAVE, MEMBERS, EXPIRED)


class Call(NamedTuple):
    """A script with its keys and arguments."""

    script: Script
    keys: tuple[bytes, ...]
    arguments: tuple[bytes | str | int, ...]

    def command(self, *, whole: bool) -> tuple[Any, ...]:
        """Return it as a command, with the script's text or its digest."""
        name, script = ("EVAL", self.script.text) if whole else ("EVALSHA", self.script.digest)
        return (name, script, len(self.keys), *self.keys, *self.arguments)
