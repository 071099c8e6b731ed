"""Delivery. The packages sort in the order a message travels: read them top to bottom.

broker     the floor: the client, every Redis name, every Lua script and its one typed coroutine
bus        the producer's side: publish, await, read receipts
directory  which agents a tenant has
dispatch   stream to mailboxes: validate, resolve, move
mailbox    order and time: take, settle, renew, sweep, ring
policies   may this go now? one rule, one file
turn       one turn of an agent; turn/letta holds the only importers of a Letta client

pool runs drains under arq; roles is the composition root that wires each process.
"""
