"""Fixtures and checks that several tests share."""
