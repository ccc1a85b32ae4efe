"""The Kong plugin canary-release: asks for a decision, routes, and fails open."""
