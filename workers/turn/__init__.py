"""One turn of one agent: policies, call, settle. Only the composition root imports it."""
