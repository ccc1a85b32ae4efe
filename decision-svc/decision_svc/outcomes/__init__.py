"""What became of requests, as gateways report it."""
