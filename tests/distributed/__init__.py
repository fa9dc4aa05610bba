"""Tests with several processes: torchrun with gloo; each rank saves its results, which the tests compare."""
