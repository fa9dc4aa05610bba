"""gnt held to the golden traces and to the literal twins."""
