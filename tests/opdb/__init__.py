"""The table of operations: what each one is, what it must do, what it must refuse.

The tests in tests/ops run over :data:`OPS`; a new operation is tested by adding its entry.
"""

from tests.opdb import elementwise, images, index, layers, losses, nets, products, reduce, shape
from tests.opdb.base import FLOATS, Bad, Draw, Op, Sample, as_function, flat, run, wrap

OPS = [op for family in (elementwise, reduce, products, shape, index, images, losses, nets, layers) for op in family.OPS]

__all__ = ["FLOATS", "OPS", "Bad", "Draw", "Op", "Sample", "as_function", "flat", "run", "wrap"]
