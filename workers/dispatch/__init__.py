"""From the stream into mailboxes: validate, resolve, move in one step. Knows nothing of Letta or limits."""
