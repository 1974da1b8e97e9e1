"""The multi-tensor step of SGD: pieces of large parameters, and nothing beside them."""
import numpy as np
import pytest

from minidl.kernels import variants
from minidl.kernels.cpu import optim
from minidl.kernels.cpu.launch import LaunchError
from tests.kernels.cpu.guards import BAND, MARK

SIZES = [1, 15, 16, 17, optim._PIECE - 1, optim._PIECE, optim._PIECE + 1, 3 * optim._PIECE + 5]


def room(values):
    """The values between bands that nobody may write."""
    bits = np.full(values.size + 2 * BAND, MARK, np.uint32)
    bits.view(np.float32)[BAND:-BAND] = values
    return bits


@pytest.mark.parametrize("options", [{"lr": 0.1}, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}], ids=str)
def test_pieces(options):
    rng = np.random.default_rng(0)
    start, grads = ([rng.standard_normal(n).astype(np.float32) for n in SIZES] for _ in range(2))
    rooms = [room(p) for p in start]
    params, expected = [bits.view(np.float32)[BAND:-BAND] for bits in rooms], [p.copy() for p in start]
    states = [[None] * len(SIZES), [None] * len(SIZES)]
    for _ in range(3):
        variants("sgd_")["vector"](params, grads, states[0], **options)
        variants("sgd_")["reference"](expected, grads, states[1], **options)
    for got, wanted, bits in zip(params, expected, rooms, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=2e-6)   # a few roundings per step
        assert (bits[:BAND] == MARK).all() and (bits[-BAND:] == MARK).all()


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(LaunchError, match="another size"):
        variants("sgd_")["vector"]([np.zeros(4, np.float32)], [np.zeros(3, np.float32)], [None], lr=0.1)
