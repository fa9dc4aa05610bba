"""Tests with several processes, connected by gloo; each rank saves its results, which the tests compare."""
