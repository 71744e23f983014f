"""Revisions, oldest first by number. Each is frozen: a later wish is a new revision."""
