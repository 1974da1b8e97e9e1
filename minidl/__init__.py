"""minidl: deep learning written from scratch on NumPy."""
import os as _os

if not _os.path.isdir(_os.path.join(__path__[0], "kernels")):
    # An uninstalled checkout keeps the kernels beside the package; an installed one has them inside it.
    __path__.append(_os.path.dirname(__path__[0]))

__version__ = "0.1.0"
