"""Masks of a run as annotations, and corrected masks back again."""
