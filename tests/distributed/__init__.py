"""Several real processes: torchrun with gloo, each scenario's ranks writing what they saw for the test to compare."""
