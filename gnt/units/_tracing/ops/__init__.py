"""Effect of torch operations on the labels of their operands, one module per kind of operation."""
