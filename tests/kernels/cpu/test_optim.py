"""The multi-tensor steps of the optimisers: pieces of large parameters, and nothing beside them."""
import numpy as np
import pytest

from minidl.kernels import variants
from minidl.kernels.cpu import optim
from minidl.kernels.cpu.launch import LaunchError
from tests.kernels.cpu.guards import BAND, MARK
from tests.kernels.test_optim import CASES, STATES, TAKES_STEPS

SIZES = [1, 15, 16, 17, optim._PIECE - 1, optim._PIECE, optim._PIECE + 1, 3 * optim._PIECE + 5]


def room(values):
    """The values between bands that nobody may write."""
    bits = np.full(values.size + 2 * BAND, MARK, np.uint32)
    bits.view(np.float32)[BAND:-BAND] = values
    return bits


@pytest.mark.parametrize("verb, options", [case[:2] for case in CASES], ids=str)
def test_pieces(verb, options):
    rng = np.random.default_rng(0)
    start, grads = ([rng.standard_normal(n).astype(np.float32) for n in SIZES] for _ in range(2))
    states = [[np.zeros(n, np.float32) for n in SIZES] for _ in range(STATES[verb])]
    rooms = [[room(values) for values in arrays] for arrays in (start, *states)]
    params, *own = [[bits.view(np.float32)[BAND:-BAND] for bits in arrays] for arrays in rooms]
    own, states = own or [[None] * len(SIZES)], states or [[None] * len(SIZES)]
    expected = [p.copy() for p in start]
    for step in range(1, 4):
        # Parameters that joined later have taken fewer steps.
        steps = [[step + i % 2 for i in range(len(SIZES))]] if verb in TAKES_STEPS else []
        variants(verb)["vector"](params, grads, *own, *steps, **options)
        variants(verb)["reference"](expected, grads, *states, *steps, **options)
    for got, wanted in zip(params, expected, strict=True):
        # A few roundings per step; RMSprop's v - mean^2 loses more where the two are close.
        np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=2e-5 if options.get("centered") else 2e-6)
    for arrays in rooms:
        for bits in arrays:
            assert (bits[:BAND] == MARK).all() and (bits[-BAND:] == MARK).all()


def test_parameters_that_join_later_start_their_momentum_themselves():
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    results = []
    for variant in ("vector", "reference"):
        params, buffers = [np.ones(5, np.float32), np.ones(7, np.float32)], [np.full(5, 2, np.float32), None]
        variants("sgd_")[variant](params, [p * 3 for p in params], buffers, **options)
        results.append(params + buffers)
    for got, wanted in zip(*results, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)   # a few roundings


def test_amsgrad_keeps_nan():
    for poison in range(2):
        arrays = [[np.ones(20, np.float32)] for _ in range(5)]
        arrays[1 if poison else 4][0][3] = np.nan    # the gradient, or the largest average so far
        variants("adam_")["vector"](*arrays, [1], lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, amsgrad=True)
        assert np.isnan(arrays[0][0][3]) and np.isnan(arrays[4][0][3]) and np.isnan(arrays[0][0]).sum() == 1


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(LaunchError, match="another size"):
        variants("sgd_")["vector"]([np.zeros(4, np.float32)], [np.zeros(3, np.float32)], [None], lr=0.1)
