"""Slow, literal implementations of the algorithms, which the library must equal."""
