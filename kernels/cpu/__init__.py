"""The fast CPU kernels: the ``vector`` variant, float32.

The tools, from the bottom up:

- :mod:`emit`: the language that kernels are written in.
- :mod:`engine`: which instructions this machine has, and text to machine code; :mod:`cache` keeps machine code on disk.
- :mod:`threads`: the pool that runs a kernel on several cores (``pool.ll``).
- :mod:`launch`: a kernel as a guarded Python function of arrays.
- :mod:`memory`: large buffers, used again; :mod:`layout`: channels-last memory behind NCHW shapes.
- :mod:`dispatch`: which calls a kernel takes, and what takes the rest.
- :mod:`roofs`: what the machine can do at most, measured with kernels of this language.

The kernels, by family:

- :mod:`conv` chooses between :mod:`direct` (any shape; :mod:`plans` says where its pixels are) and :mod:`winograd` (3x3 and 5x5
  with stride 1; :mod:`winograd_grad` has the weight gradient, :mod:`winograd_shapes` what suits which shape, :mod:`transforms`
  the formulas).  They are made of :mod:`packing`, :mod:`filters` and :mod:`tiles`.
- :mod:`norm` over :mod:`rows`, :mod:`pool`, :mod:`elementwise`, :mod:`optim`.
- :mod:`softmax`, :mod:`loss` and :mod:`layer_norm` walk along rows with :mod:`lanes`; these, :mod:`activation` and
  :mod:`attention` have their exponentials from :mod:`functions`.

Nothing here is compiled, and llvmlite is not imported, before a kernel is first called.
"""
