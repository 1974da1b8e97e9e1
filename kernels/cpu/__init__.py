"""The fast CPU kernels: the ``vector`` variant.

- :mod:`emit`: the language that kernels are written in.
- :mod:`engine`: which instructions this machine has, and text to machine code; :mod:`cache` keeps the machine code on disk.
- :mod:`threads`: the pool that runs a kernel on several cores.
- :mod:`launch`: a kernel as a Python function of arrays, guarded.
- :mod:`memory`: large buffers, used again.
- :mod:`dispatch`: which calls a kernel takes, and what takes the rest.
- the families: :mod:`conv`, :mod:`norm`, :mod:`elementwise`, :mod:`optim`.

Nothing here is compiled, and llvmlite is not imported, before a kernel is first called.
"""
