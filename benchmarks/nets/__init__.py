"""Whole nets against PyTorch: every contender in a process of its own, timed in turn."""
