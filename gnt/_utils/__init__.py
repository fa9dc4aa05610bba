"""Small helpers used by all packages: checks of arguments, saved states, generators, tables, `torch.compile`."""
