"""The commands, one file for each group. Each has `register(app)`; none knows how an error becomes an exit code."""
