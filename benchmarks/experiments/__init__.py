"""Small experiments on generated data, a question each: `python -m benchmarks.experiments.NAME` answers it in JSON."""
