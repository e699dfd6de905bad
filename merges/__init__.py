"""Merging techniques, one file each. Knows tensors, losses and parameter spaces, and no suites, engines or files."""
