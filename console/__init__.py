"""The front door for people: the `postroom` command, and the sandbox (embedded Redis, sandbox Letta)."""
