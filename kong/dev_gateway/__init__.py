"""A stand-in for Kong on a developer's machine; speaks Kong's side of the plugin protocol."""
