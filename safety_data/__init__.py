"""Prompts and calibration rows: what unsafe means here, and the data made from it. Knows nothing of merging."""
