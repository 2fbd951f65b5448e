"""Training: one loop, `fit`, and short files that say what a batch and a loss are."""
