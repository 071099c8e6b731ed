"""What several tests share: servers, clocks, builders, checks."""
