"""All that is checked and measured on a machine with a GPU, by one command: ``python -m benchmarks.device_suite --out DIR``.

It works on a checkout with PYTHONPATH alone.  Each part runs in a process of its own, which writes every result to
DIR/device-suite.json at once: a run that is stopped keeps what it has, and a second call goes on with what is missing.
"""
