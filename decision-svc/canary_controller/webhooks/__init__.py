"""Asks and tells others over HTTP, signed, without ever making a release wait for them."""
