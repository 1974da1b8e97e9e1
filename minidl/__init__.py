"""minidl: deep learning written from scratch on NumPy.

    >>> import minidl
    >>> x = minidl.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4., 6.])
"""
import os as _os

if not _os.path.isdir(_os.path.join(__path__[0], "kernels")):
    # An uninstalled checkout keeps the kernels beside the package; an installed one has them inside it.
    __path__.append(_os.path.dirname(__path__[0]))

__version__ = "0.1.0"

from minidl import config, cuda, errors, ops  # noqa: E402
from minidl.autograd import Function, grad  # noqa: E402
from minidl.autograd.autocast import autocast, get_autocast_dtype, is_autocast_enabled  # noqa: E402
from minidl.autograd.grad_mode import (  # noqa: E402
    enable_grad,
    inference_mode,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
)
from minidl.backend.dtypes import (  # noqa: E402
    bool,
    double,
    float,
    float16,
    float32,
    float64,
    half,
    int8,
    int16,
    int32,
    int64,
    long,
    uint8,
)
from minidl.backend.rng import Generator, get_rng_state, manual_seed, set_rng_state  # noqa: E402
from minidl.backend.threads import get_num_threads, set_num_threads  # noqa: E402
from minidl.ops import *  # noqa: E402, F403
from minidl.tensor import Tensor  # noqa: E402

inference = inference_mode

from minidl import amp, autograd, nn, optim  # noqa: E402


def __getattr__(name: str) -> object:
    if name == "bfloat16":                           # its package is imported when it is asked for
        from minidl.backend import dtypes
        return dtypes.load_bfloat16()
    raise AttributeError(f"module 'minidl' has no attribute {name!r}")
