"""How an operation is written: one class with ``forward`` and ``backward``.

    class Conv2d(Function, verb="conv2d"):
        def forward(self, F, x, w, b, *, geom):
            self.geom = geom
            return F.conv2d(x, w, b, geom=geom)

        def backward(self, F, gy, x, w):
            return (self.needs[0] and F.conv2d_input_grad(gy, w, geom=self.geom),
                    self.needs[1] and F.conv2d_weight_grad(gy, x, geom=self.geom),
                    self.needs[2] and F.sum(gy, (0, 2, 3)))

*forward* takes arrays first (None where an optional one is missing), options after the ``*``.  *backward* returns one
gradient per array, None where none is needed.  The names after ``gy`` in its signature say what is kept from the forward
pass: an input, ``y`` for the output, or an attribute that forward set on ``self``.

``verb`` is for minidl's own operations.  Without it the class is a user's: ``Cube.apply(x)`` runs it, plain operators may
stand for verbs (they work on arrays and on Tensors alike), one gradient needs no tuple, and what forward and backward
return is checked (:mod:`minidl.autograd.custom`).

**One formula, two levels.**  ``F`` is the backend - arrays in, arrays out, no Tensor made - or, when the backward pass is
itself recorded (``create_graph=True``), the namespace :data:`tensors` of Functions under the same names.  So the second
derivative is derived, never written.  A fused gradient kernel joins in as a :func:`composite`: a formula in other verbs,
which the recorded level runs where the backend runs its kernel.

``apply`` is a closure made once per class and shape of signature: it unwraps, checks devices and dtypes, and records.
"""
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from minidl.autograd import autocast
from minidl.autograd.custom import check_definition, checked_backward, checked_forward
from minidl.autograd.node import Node, Parts, Pick
from minidl.config import grad_mode
from minidl.errors import DeviceError, DTypeError, MinidlError, ShapeError
from minidl.tensor import Tensor, as_operand, link_view, promote

grad_enabled = grad_mode.get
tensors = SimpleNamespace(name="tensors")            # verb -> apply: the F of the recorded level
functions: dict[str, type[Function]] = {}            # verb -> class, for the tests and the tools
composites: dict[str, Callable[..., Any]] = {}       # verb -> formula

__all__ = ["Binary", "Function", "Parts", "Unary", "View", "composite", "plain", "tensors"]


def composite(verb: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register ``formula(F, ...)``, written in verbs, as what ``tensors.<verb>`` does."""
    def register(formula: Callable[..., Any]) -> Callable[..., Any]:
        composites[verb] = formula
        setattr(tensors, verb, functools.partial(formula, tensors))
        return formula
    return register


def plain(verb: str) -> Callable[..., Any]:
    """Register a verb that has no gradient (comparisons, argmax, ...): arrays of its tensors in, tensor(s) out."""
    def apply(*args: Any, **options: Any) -> Any:
        F = common_backend(verb, args)
        y = getattr(F, verb)(*[t.data if isinstance(t, Tensor) else t for t in args], **options)
        return tuple(Tensor(a, F) for a in y) if type(y) is tuple else Tensor(y, F)
    apply.__name__ = apply.__qualname__ = verb
    setattr(tensors, verb, apply)
    return apply


def common_backend(verb: str, args: Any) -> Any:
    """The one backend of all tensors among ``args``; DeviceError when there are two."""
    F = None
    for t in args:
        if isinstance(t, Tensor):
            if F is None:
                F = t.F
            elif t.F is not F:
                raise DeviceError(f"{verb}: tensors on {F.device} and on {t.F.device}; move one with .to({str(F.device)!r})")
    if F is None:
        raise TypeError(f"{verb}: expected a Tensor, found {', '.join(type(a).__name__ for a in args) or 'nothing'}; wrap "
                        "it in minidl.tensor()")
    return F


def _may_differ(t: Tensor, own: Any, dtype: Any, args: Any, wide: list[int]) -> bool:
    """Whether a tensor may be float32 where the first input has 16 bits: a parameter of batch norm, say."""
    return dtype.itemsize == 2 and own.itemsize == 4 and any(args[i] is t for i in wide)


def _dtype_clash(verb: str, args: Any) -> DTypeError:
    found = ", ".join(str(t.data.dtype) for t in args if isinstance(t, Tensor))
    return DTypeError(f"{verb}: inputs of dtype {found}; they must agree, convert one with .to(dtype)")


class Function(Node):
    """An operation, and a node of the graph when it is recorded.  See the module's docstring for how to write one."""

    __slots__ = ()
    inputs: tuple[str, ...] = ()                     # the array arguments of forward
    variadic = False                                 # forward(self, F, *xs, ...)
    keeps_all = False                                # backward(self, F, gy, *xs)
    autocast: str | None = None                      # of a user's: its rule under autocast, see minidl.autograd.autocast
    may_be_wide: tuple[str, ...] = ()                # inputs that may be float32 beside 16-bit ones
    primary = False                                  # of several results only the first has a gradient; backward gets it as gy
    verb = ""
    rule: str | None
    apply: Callable[..., Any]
    unlinked: Callable[..., Any]                     # of a View: apply, without noting that memory is shared

    def forward(self, F: Any, *arrays: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward(self, F, ...)")

    def backward(self, F: Any, gy: Any, /, *kept: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no backward(self, F, gy, ...)")

    def __init_subclass__(cls, verb: str | None = None, abstract: bool = False) -> None:
        super().__init_subclass__()
        if abstract:
            return
        check_definition(cls)
        if cls.forward is not Function.forward:
            parameters = list(inspect.signature(cls.forward).parameters.values())[2:]
            cls.inputs = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
            cls.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
            defaults = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty]
            if defaults:
                raise TypeError(f"{cls.__name__}.forward: {defaults} have defaults; options of an operation come after a `*`")
        if "y" in cls.inputs:
            raise TypeError(f"{cls.__name__}.forward: `y` is the output's name; call the input something else")
        kept = list(inspect.signature(cls.backward).parameters.values())[3:]
        cls.keeps_all = cls.variadic and any(p.kind is p.VAR_POSITIONAL for p in kept)
        names = [p.name for p in kept if p.kind is p.POSITIONAL_OR_KEYWORD]
        cls.keeps = tuple(-1 if k == "y" else cls.inputs.index(k) if k in cls.inputs else k for k in names)
        cls.verb = verb or cls.__name__.lower()
        if verb is None:                             # a user's
            for name, check in (("forward", checked_forward), ("backward", checked_backward)):
                if name in vars(cls):
                    setattr(cls, name, check(cls, vars(cls)[name]))
        cls.rule = autocast.rule_of(cls, verb)
        cls.apply = staticmethod(cls.specialise(cls.verb))
        if verb is not None:
            functions[verb] = cls
            setattr(tensors, verb, cls.apply)

    @classmethod
    def specialise(cls, verb: str) -> Callable[..., Any]:
        """The function that runs this class: apply(*tensors, **options)."""
        keeps, new, count, variadic, keeps_all = cls.keeps, cls.__new__, len(cls.inputs), cls.variadic, cls.keeps_all
        primary, rule, wide = cls.primary, cls.rule, [cls.inputs.index(name) for name in cls.may_be_wide]

        def apply(*args: Any, **options: Any) -> Any:
            if autocast.blocks and rule is not None:
                args = autocast.cast(rule, args)     # type: ignore[assignment]
            if len(args) != count and not variadic:
                raise TypeError(f"{verb}: takes {count} tensors ({', '.join(cls.inputs)}), found {len(args)}")
            F = dtype = None
            arrays: list[Any] = []
            edges: list[Any] = []
            recording = False
            for t in args:
                if t is None:
                    arrays.append(None)
                    edges.append(None)
                    continue
                if type(t) is not Tensor and not isinstance(t, Tensor) or F is not None and t.F is not F:
                    common_backend(verb, args)
                    raise TypeError(f"{verb}: expected a Tensor, found {type(t).__name__}; wrap it in minidl.tensor(), or "
                                    "pass it by name if it is an option")
                F = t.F
                x = t.data
                if x.dtype.kind in "fV":
                    if dtype is None:
                        dtype = x.dtype
                    elif x.dtype is not dtype and x.dtype != dtype and not _may_differ(t, x.dtype, dtype, args, wide):
                        raise _dtype_clash(verb, args)
                arrays.append(x)
                edge = t.edge
                edges.append(edge)
                if edge is not None:
                    recording = True
            if F is None:
                common_backend(verb, args)
            node = new(cls)
            needs = node.needs = edges if recording and grad_enabled() else None
            y = node.forward(F, *arrays, **options)
            if needs is None:
                return tuple([Tensor(a, F) for a in y]) if type(y) is tuple else Tensor(y, F)
            if keeps_all:
                saved = tuple(arrays)
            else:
                saved = tuple([getattr(node, k) if isinstance(k, str) else y if k < 0 else arrays[k] for k in keeps])
            for k in keeps:
                if type(k) is str:
                    delattr(node, k)                 # from here on it is freed, and checked, with the rest
            node.__init__(F, needs, saved)           # type: ignore[misc]
            if type(y) is tuple:
                if primary:
                    return (Tensor(y[0], F, node), *[Tensor(a, F) for a in y[1:]])
                return tuple([Tensor(a, F, Pick(F, node, k) if a.dtype.kind in "fV" else None) for k, a in enumerate(y)])
            return Tensor(y, F, node if y.dtype.kind in "fV" else None)

        apply.__name__ = apply.__qualname__ = verb
        apply.__doc__ = cls.__doc__
        return apply


class View(Function, abstract=True):
    """An operation of one tensor whose result may share its memory: an in-place change of one then reaches the other."""

    __slots__ = ()

    @classmethod
    def specialise(cls, verb: str) -> Callable[..., Any]:
        run = super().specialise(verb)
        cls.unlinked = staticmethod(run)

        def apply(x: Tensor, **options: Any) -> Tensor:
            out = run(x, **options)
            base = out.data.base
            if base is not None and (base is x.data or base is x.data.base):
                link_view(out, x, verb, options)
            return out

        apply.__name__ = apply.__qualname__ = verb
        apply.__doc__ = cls.__doc__
        return apply


class Unary(Function, abstract=True):
    """y = F.verb(x), elementwise.  Integers are computed in float32 where the result is not an integer."""

    __slots__ = ()
    inputs = ("x",)

    @classmethod
    def specialise(cls, verb: str) -> Callable[..., Any]:
        keep_x, keep_y, rule = 0 in cls.keeps, -1 in cls.keeps, cls.rule

        def apply(x: Any) -> Tensor:
            if autocast.blocks and rule is not None:
                (x,) = autocast.cast(rule, (x,))
            if type(x) is not Tensor and not isinstance(x, Tensor):
                common_backend(verb, (x,))
            F = x.F
            a = x.data
            try:
                y = getattr(F, verb)(a)
            except TypeError as e:
                raise DTypeError(f"{verb}: does not take {a.dtype} ({e})") from None
            if y.dtype is not a.dtype and a.dtype.kind not in "fV":
                return apply(x.to(F.float32))
            edge = x.edge
            if edge is None or not grad_enabled():
                return Tensor(y, F)
            saved = (a, y) if keep_x and keep_y else (a,) if keep_x else (y,) if keep_y else ()
            return Tensor(y, F, cls(F, (edge,), saved))

        apply.__name__ = apply.__qualname__ = verb
        apply.__doc__ = cls.__doc__
        return apply


class Binary(Function, abstract=True):
    """y = F.verb(a, b), elementwise and broadcasting.

    Operands of unequal shape get a subclass whose backward sums back to each shape: the decision is taken once, in
    forward, and costs nothing when the shapes are equal.
    """

    __slots__ = ()
    inputs = ("a", "b")
    # thin(a, b, y, ea, eb): what is kept when one of the two edges is None; unset, the same as when neither is.
    thin: Callable[..., tuple[Any, ...]] | None = None

    @classmethod
    def specialise(cls, verb: str) -> Callable[..., Any]:
        keeps = cls.keeps
        keep_a, keep_b, keep_y = 0 in keeps, 1 in keeps, -1 in keeps
        keeps_none, thin = not keeps, cls.thin
        rule = None if cls.rule == autocast.WIDEST else cls.rule         # operands are promoted in any case
        Broadcast = type(cls.__name__, (_Broadcast, cls), {"__slots__": ("shapes",), "__doc__": cls.__doc__}, abstract=True)

        def apply(a: Any, b: Any) -> Tensor:
            if type(b) is not Tensor:
                b = as_operand(b, a, verb)
            if type(a) is not Tensor:
                a = as_operand(a, b, verb)
            if rule is not None and autocast.blocks:
                a, b = autocast.cast(rule, (a, b))
            F = a.F
            x = a.data
            z = b.data
            if b.F is not F:
                common_backend(verb, (a, b))
            if x.dtype is not z.dtype and x.dtype != z.dtype:
                dtype = promote(F, x, z)
                return apply(a.to(dtype), b.to(dtype))
            try:
                y = getattr(F, verb)(x, z)
            except (ValueError, TypeError) as e:
                raise elementwise_error(verb, x, z, e) from None
            if y.dtype is not x.dtype and x.dtype.kind not in "fV" and y.dtype.kind == "f":
                return apply(a.to(F.float32), b.to(F.float32))      # 1 / 2: PyTorch computes integers in float32 here
            ea = a.edge
            eb = b.edge
            if ea is None and eb is None or not grad_enabled():
                return Tensor(y, F)
            if keeps_none:
                saved: tuple[Any, ...] = ()
            elif thin is not None and (ea is None or eb is None):
                saved = thin(x, z, y, ea, eb)
            elif keep_y:
                saved = tuple([y if k < 0 else (x, z)[k] for k in keeps])
            else:
                saved = (x, z) if keep_a and keep_b else (x,) if keep_a else (z,)
            if x.shape == z.shape:
                return Tensor(y, F, cls(F, (ea, eb), saved))
            node = Broadcast(F, (ea, eb), saved)
            node.shapes = x.shape, z.shape
            return Tensor(y, F, node)

        apply.__name__ = apply.__qualname__ = verb
        apply.__doc__ = cls.__doc__
        return apply


class _Broadcast:
    """Mixed into a Binary whose operands had unequal shapes."""

    __slots__ = ()
    shapes: tuple[Any, Any]

    def backward(self, F: Any, gy: Any, *kept: Any) -> Any:
        grads = super().backward(F, gy, *kept)       # type: ignore[misc]
        return [g if g is None or g.shape == s else F.sum_to(g, shape=s) for g, s in zip(grads, self.shapes, strict=True)]


def elementwise_error(verb: str, x: Any, z: Any, error: Exception) -> MinidlError:
    """What to raise when the backend refused two arrays: their shapes do not broadcast, or it does not take the dtype."""
    a, b = tuple(x.shape), tuple(z.shape)
    for axis in range(1, min(len(a), len(b)) + 1):
        if a[-axis] != b[-axis] and 1 not in (a[-axis], b[-axis]):
            return ShapeError(f"{verb}: shapes {a} and {b} do not broadcast: axis -{axis} is {a[-axis]} in one and {b[-axis]} in "
                              "the other; sizes must be equal or 1, reshape or transpose one of them")
    return DTypeError(f"{verb}: does not take {x.dtype} ({error})")
