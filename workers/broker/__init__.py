"""The floor: the connection, every Redis name (keys), every script (lua/) with its one typed coroutine."""
