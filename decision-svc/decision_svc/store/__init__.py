"""Where policies and people are kept: one interface, a memory and a Redis adapter."""
