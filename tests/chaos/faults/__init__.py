"""The faults, by their names in the order of the table; each file is one kind."""
