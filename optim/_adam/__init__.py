"""How `AdamGnT` steps: which implementation steps each parameter, the implementations, and the optimizer state."""
