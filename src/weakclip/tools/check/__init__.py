"""Checks a data set, and counts what it holds."""
