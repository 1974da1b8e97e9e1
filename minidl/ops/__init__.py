"""Operations: Function classes by family, and the functions that users call on them."""
from minidl.ops import methods as _methods  # noqa: F401  (attaches operators and methods to Tensor)
