"""The chaos rig: breaks everything that can break around real processes, and accounts for every message.

`python -m tests.chaos --help`; `make chaos`, `make chaos-full`.
"""
