"""How traced groups are proved: models, what is expected of them, and proofs that ask the model itself."""
