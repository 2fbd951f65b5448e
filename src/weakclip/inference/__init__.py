"""From a trained network to masks and scores: windows, pseudo masks, metrics, evaluation."""
