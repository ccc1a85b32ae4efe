"""Who may: credentials, roles, and who the caller of the call in progress is."""
