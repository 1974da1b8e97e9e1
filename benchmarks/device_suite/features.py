"""minidl's and PyTorch's ways to compute in another precision or to replay a step, in one place; and whether they are there."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import minidl
from benchmarks.device_suite.work import Missing

NO_GPU = "CUDA graphs need a GPU"
FLOAT32, TF32, BFLOAT16 = PRECISIONS = ("float32", "tf32", "bfloat16")


@contextlib.contextmanager
def minidl_precision(precision: str) -> Iterator[None]:
    """A block in which minidl computes so.

    Raises:
        Missing: this minidl cannot.
    """
    config: Any = minidl.config
    if precision == BFLOAT16:
        autocast: Any = getattr(minidl, "autocast", None)
        if autocast is None:
            raise Missing("minidl.autocast is not there")
        with autocast("bfloat16"):
            yield
        return
    switch = getattr(config, "allow_tf32", None)
    if switch is None:
        if precision == TF32:
            raise Missing("minidl.config.allow_tf32 is not there")
        yield
        return
    with switch(precision == TF32):
        yield


@contextlib.contextmanager
def torch_precision(torch: Any, place: str, precision: str) -> Iterator[None]:
    """A block in which PyTorch computes so, on the device ``place``."""
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == TF32
    try:
        with torch.autocast(place, torch.bfloat16, enabled=precision == BFLOAT16):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


WARM_UP = 3  # calls before a capture


def minidl_graph(step: Callable[..., Any], inputs: tuple[Any, ...]) -> Callable[[], Any]:
    """``step(*inputs)``, captured by minidl in a CUDA graph.

    Raises:
        Missing: this minidl cannot, or not this step; the message says why.
    """
    capture: Any = getattr(minidl.cuda, "graph", None)
    if capture is None:
        raise Missing("minidl.cuda.graph is not there")
    if not inputs[0].is_cuda:
        raise Missing(NO_GPU)
    captured = capture(step, WARM_UP)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it says the reason, too
        for _ in range(WARM_UP + 1):
            captured(*inputs)
    if captured.reason is not None:
        raise Missing(f"it cannot be captured: {captured.reason}")
    return lambda: captured(*inputs)


def torch_graph(torch: Any, step: Callable[[], Any]) -> Callable[[], Any]:
    """A step as one CUDA graph of PyTorch's; it returns the step's result, which every replay writes anew.

    Raises:
        Missing: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise Missing(NO_GPU)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # warm-up on a side stream, as PyTorch's documentation asks for
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()

    def replay() -> Any:
        graph.replay()
        return result

    return replay
