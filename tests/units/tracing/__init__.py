"""Helpers for the tests of `gnt.trace`: models, expected groups, and checks of groups by running the model."""
