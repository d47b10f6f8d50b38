"""The wire protocols: one module each, stating both sides of it. None of them does I/O."""
