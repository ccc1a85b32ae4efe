"""Starts the whole product as processes on one machine: make run, make demo, the system tests."""
