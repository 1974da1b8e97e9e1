"""The operations that the lectures teach, as plain loops that Numba compiles: variant "numba".

``kernels.use("numba")`` or ``MINIDL_KERNELS=numba`` chooses it; nothing chooses it by itself, since Numba takes seconds to
compile a family the first time (later processes read the machine code from disk).  Numba is imported when one of these
kernels is first called.

Each module holds one family: *scalar functions*, which say what one element of a result is, and the loops over the elements that
call them, on all threads.  The package ``cuda`` calls the same scalar functions from kernels, which have threads of a GPU in the
place of the loops.

The modules see C-contiguous arrays, all float32 or all float64.  :class:`Variant` sees to it: it copies other layouts, and leaves
other dtypes to NumPy.
"""
from __future__ import annotations

import functools
import importlib
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import ConfigError
from minidl.kernels.cpu.threads import get_num_threads
from minidl.kernels.registry import register, variants

NAME = "numba"
VERBS = {
    "conv": ("conv2d", "conv2d_input_grad", "conv2d_weight_grad", "im2col", "col2im"),
    "pool": ("max_pool2d", "max_pool2d_grad", "max_pool2d_take", "avg_pool2d", "avg_pool2d_grad"),
    "norm": ("batch_norm", "batch_norm_grad", "batch_norm_inference", "batch_norm_relu", "batch_norm_relu_grad"),
    "dropout": ("dropout", "dropout_mask"),
    "softmax": ("softmax", "softmax_grad", "log_softmax", "log_softmax_grad"),
    "loss": ("softmax_cross_entropy", "softmax_cross_entropy_grad"),
}

_TAKEN = ({np.dtype(np.float32)}, {np.dtype(np.float64)})

# One of Numba's threading layers ends the process when two Python threads run loops at the same time.
_one_at_a_time = threading.RLock()


class Variant:
    """A kernel of one of the modules of ``package``, which is imported, and Numba with it, at the first call."""

    package, device, install = __name__, "cpu", "pip install numba"

    def __init__(self, family: str, verb: str) -> None:
        self.family, self.verb = family, verb

    @property
    def written_in(self) -> tuple[Path, int]:
        """The file and line of the kernel, found without importing it."""
        file = Path(__file__).parent / self.package.removeprefix(__name__).lstrip(".") / f"{self.family}.py"
        lines = file.read_text(encoding="utf-8").splitlines()
        return file, next(i for i, line in enumerate(lines, 1) if re.match(rf"def {self.verb}\(", line))

    @functools.cached_property
    def _kernel(self) -> Any:
        try:
            module = importlib.import_module(f"{self.package}.{self.family}")
        except ImportError as error:
            raise ConfigError(
                f"kernel {self.verb!r}: variant {NAME!r} needs Numba, which does not work here ({error}); {self.install}, or "
                f"choose another of {', '.join(sorted(variants(self.verb, self.device).keys() - {NAME}))}"
            ) from error
        return getattr(module, self.verb)

    def _prepare(self) -> None:
        """Let Numba use as many threads as the other kernels, or as many as it has."""
        import numba

        numba.set_num_threads(min(get_num_threads(), vars(numba.config)["NUMBA_NUM_THREADS"]))

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        arrays = [a for a in (*arguments, *options.values()) if _is_array(a)]
        if arrays and {a.dtype for a in arrays if a.dtype.kind != "i"} not in _TAKEN:
            device, name = ("cpu", "numpy") if isinstance(arrays[0], np.ndarray) else ("cuda", "cupy")
            return variants(self.verb, device)[name](*arguments, **options)
        with _one_at_a_time:
            kernel = self._kernel
            self._prepare()
            return kernel(*map(_contiguous, arguments), **{name: _contiguous(value) for name, value in options.items()})


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "__cuda_array_interface__")


def _contiguous(value: Any) -> Any:
    return value.copy(order="C") if _is_array(value) and not value.flags.c_contiguous else value


def register_family(family: str) -> None:
    """Register the kernels of a family, if there are any."""
    for verb in VERBS.get(family, ()):
        register(verb, "cpu", NAME)(Variant(family, verb))
    importlib.import_module(f"{__name__}.cuda").register_family(family)
