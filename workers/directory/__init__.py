"""Which agents a tenant has, by id and by name. Asks a source it is given; never imports a Letta client."""
