"""Versions of a store: the matrix of upgrades, their steps, and the user's own schema migrations."""
