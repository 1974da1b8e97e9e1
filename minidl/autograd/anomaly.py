"""Finding the line that made the first NaN."""
from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from minidl.autograd import engine
from minidl.autograd import node as clock
from minidl.autograd.node import Node, Parts
from minidl.errors import NumericsError
from minidl.tensor import Tensor

_lock = threading.Lock()
_OURS = __file__.rsplit("autograd", 1)[0]


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Stop at the first NaN of a forward pass, and the first NaN or infinity of a backward pass.

    The error names the operation, the shape, the first bad index, and the line of your program that ran the operation.
    Off, it costs nothing; on, it notes a line for each operation and looks at every result, in all threads of the process.

    Raises:
        NumericsError: a bad number was made.
    """
    if not _lock.acquire(blocking=False):            # a block inside a block, or in another thread: already looking
        yield
        return
    plain_tick, plain_init, plain_watch = clock.tick, Tensor.__init__, engine.watch
    lines: dict[int, str] = {}

    def tick() -> int:
        seq = plain_tick()
        lines[seq] = _line()
        return seq

    def init(self: Tensor, data: Any, F: Any, edge: Any = None) -> None:
        plain_init(self, data, F, edge)
        if isinstance(edge, Node) and data.dtype.kind in "fV" and (bad := F.first_nonfinite(data, infinities=False)) is not None:
            raise NumericsError(f"{edge.name}: the forward pass gave {data[bad]} at {bad} of a result of shape "
                                f"{tuple(data.shape)}, at {lines.get(edge.seq, 'a line outside detect_anomaly()')}")

    def watch(node: Node, gy: Any, grads: Sequence[Any]) -> None:
        for i, g in enumerate(grads):
            for part in g.values() if type(g) is Parts else (g,):
                a = part.data if isinstance(part, Tensor) else part
                if a is not None and node.needs[i] is not None and (bad := node.F.first_nonfinite(a)) is not None:
                    raise NumericsError(f"{node.name}: the backward pass gave {a[bad]} at {bad} of the gradient of input "
                                        f"{i}, of shape {tuple(a.shape)}; its forward ran at "
                                        f"{lines.get(node.seq, 'a line outside detect_anomaly()')}")

    clock.tick, Tensor.__init__, engine.watch = tick, init, watch        # type: ignore[method-assign]
    try:
        yield
    finally:
        clock.tick, Tensor.__init__, engine.watch = plain_tick, plain_init, plain_watch     # type: ignore[method-assign]
        _lock.release()


def _line() -> str:
    """The innermost line of the call stack that is not minidl's own."""
    frames = traceback.extract_stack()
    for frame in reversed(frames):
        if not frame.filename.startswith(_OURS):
            return f"{frame.filename}:{frame.lineno}: {frame.line}"
    return "an unknown line"
