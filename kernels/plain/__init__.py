"""Readable array-module code, ``f(xp, ...)`` with xp = numpy or cupy: variant "numpy" on the CPU, "cupy" on CUDA."""
