"""Published ways to place atoms without learning, to compare with: random, geometric and fragment."""
