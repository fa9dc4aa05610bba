"""The tests of gnt."""
