"""Pipelines over messages and events: a producer and a listener like any other.

May import `schemas`, `workers.broker`, `workers.bus` and the shared floor (settings, clock, errors, log);
never dispatch, directory, mailbox, policies or turn. This version holds no pipelines yet; a chain of agents
is written with `reply_to`.
"""
