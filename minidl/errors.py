"""The errors minidl raises.

Each is also the built-in exception that fits, so ``except ValueError`` keeps working.  A message names the operation or
file, what was found, what was expected and the likely fix.
"""


class MinidlError(Exception):
    """Base of every error that minidl raises on purpose; the command line prints it as one line and exits with 2."""


class ShapeError(MinidlError, ValueError):
    """Shapes that do not fit an operation or each other."""


class DTypeError(MinidlError, TypeError):
    """A dtype that an operation cannot take, or a mix of dtypes that it will not convert silently."""


class DivisionError(MinidlError, ZeroDivisionError, RuntimeError):
    """Integers divided by 0 with an integer result.  (A RuntimeError, too: that is what PyTorch raises.)"""


class DeviceError(MinidlError, RuntimeError):
    """Tensors on different devices, or a device that is not there."""


class OutOfMemoryError(DeviceError, MemoryError):
    """A device without the memory that was asked for; ``asked``, ``used`` and ``available`` are bytes."""

    def __init__(self, message: str, asked: int = 0, used: int = 0, available: int = 0):
        super().__init__(message)
        self.asked, self.used, self.available = asked, used, available


class InplaceError(MinidlError, RuntimeError):
    """An in-place change that would make a gradient wrong."""


class GraphError(MinidlError, RuntimeError):
    """A backward pass that cannot run: freed graph, no graph, a gradient of the wrong shape."""


class NumericsError(MinidlError, RuntimeError):
    """A NaN or an infinity where a finite number was needed."""


class CheckpointError(MinidlError, ValueError):
    """A checkpoint or weight file that is corrupt, hostile, or made for another model."""


class DataError(MinidlError, ValueError):
    """A data set or image that is missing, corrupt or not what its format says."""


class ConfigError(MinidlError, ValueError):
    """An option, name or configuration value that is not known or not allowed."""
