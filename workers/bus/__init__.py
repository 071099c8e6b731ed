"""The producer side of the stream: publish, await, cancel, read receipts. Never delivers anything."""
