"""How the loops are compiled."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import config, njit

SIMULATED = bool(vars(config)["ENABLE_CUDASIM"])     # Numba's simulator of CUDA: NUMBA_ENABLE_CUDASIM=1


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: the function below is compiled when it is first called, for the dtypes it is called with.

    The machine code is kept beside the source, or in the user's cache folder, where one of these can be written.  Numba
    compiles anew when the file that a function is written in changes, but not when another one does: a family's scalar
    functions therefore stand in the file of its loops.

    In the simulator of CUDA threads run Python, and so must what they call: nothing is compiled there.
    """
    options = {"error_model": "numpy", "fastmath": {"contract"}, **options}

    def decorate(function: Callable[..., Any]) -> Any:
        if SIMULATED:
            return function
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to write to: each process compiles for itself
            return njit(**options)(function)

    return decorate
