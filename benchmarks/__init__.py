"""Benchmarks: `python -m benchmarks --help`. One harness (bench.py); the cases lie in ops/ and models/ by what they time."""
