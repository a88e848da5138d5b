"""Floor 0: pure functions on tensors, one file per idea; torch and the standard maths only."""
