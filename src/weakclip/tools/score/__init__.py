"""Scores of a run's seeds and masks on the splits that publications name."""
