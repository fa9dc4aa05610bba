"""Slow, literal versions of the algorithms: what the fast ones must equal."""
