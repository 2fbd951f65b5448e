"""The authors' checkpoints: the names of their tensors and words, and how they become a WeakCLIP."""
