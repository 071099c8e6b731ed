"""The only importers of a Letta client: one contract, one adapter a back end."""
