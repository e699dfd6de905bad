"""Merging techniques: one file each. Knows tensors, losses and parameter spaces; nothing of suites, engines or files."""
