"""The table of operations: what each one is, what it must do, what it must refuse.

The tests in tests/ops run over :data:`OPS`; a new operation is tested by adding its entry.
"""
from tests.opdb import elementwise, images, nets, reduce, shape
from tests.opdb.base import FLOATS, Bad, Draw, Op, Sample, as_function, flat, run, wrap

OPS = [*elementwise.OPS, *reduce.OPS, *shape.OPS, *images.OPS, *nets.OPS]

__all__ = ["FLOATS", "OPS", "Bad", "Draw", "Op", "Sample", "as_function", "flat", "run", "wrap"]
