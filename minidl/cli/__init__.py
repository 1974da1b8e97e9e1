"""The command line.  Heavy imports are inside the commands, so that ``minidl --help`` answers at once."""

from minidl.cli import bench, check, data, features, kernels, nets, runs, train, weights, zoo  # noqa: F401  (each adds its commands)
from minidl.cli.app import cli


def main() -> None:
    """The entry point of the ``minidl`` program."""
    cli(prog_name="minidl")
