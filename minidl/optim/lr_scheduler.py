"""PyTorch's name for :mod:`minidl.optim.schedule`."""
from minidl.optim.schedule import *  # noqa: F403
