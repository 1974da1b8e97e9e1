"""The CUDA kernels: CUDA C in ``*.cu``, and beside each file the Python that launches it.

``source.py`` reads the sources, ``loader.py`` compiles them with NVRTC, ``launch.py`` checks arguments and launches: on a GPU
through CuPy or, in the tests, on the CPU through an emulator that compiles the very same files with a C++ compiler.
"""
