"""Meshes that follow their releases."""
