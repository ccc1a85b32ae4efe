"""Replays access logs against a proposed policy with the engine itself: who would move, and why."""
