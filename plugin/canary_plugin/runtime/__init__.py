"""The plugin server: Kong's MessagePack protocol on one event loop."""
