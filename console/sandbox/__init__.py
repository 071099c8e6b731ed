"""A sandbox Letta: an HTTP server that behaves as a Letta 0.16.8 server does, faults included.

Comes in: what the official SDK (letta-client 1.12.1) sends, plus `/_sandbox/*` for tests.
Goes out: the same shapes, errors and event streams a real server gives, marked as simulated
(`version` contains "sandbox", every response carries `x-postroom-sandbox: 1`), and a turn log.
Never: a language model, a database, a file other than the turn log. Everything lives in memory.

It is trusted because `tests/contract/server/` holds it and a real server to the same facts.
Start: `python -m console.sandbox --port 8299 --mode joins`, or `SandboxServer` inside a process.
"""
