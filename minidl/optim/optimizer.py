"""Optimizer: parameter groups, state and their saving, shared by every update rule."""
from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from minidl.autograd import enable_grad, increment_version
from minidl.errors import CheckpointError, ConfigError
from minidl.tensor import Tensor

Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


class Optimizer:
    """Base class of the update rules.

    Args:
        params: tensors, (name, tensor) pairs as ``named_parameters()`` gives, or dicts ("groups"), each with ``"params"``
            and options that replace the defaults for them.
        defaults: the options of a group that does not give its own.

    A subclass defines ``_check(group)`` (are the options sensible?) and ``_update(F, group, params, arrays, grads)``, one step
    for parameters of one group on one backend ``F``.  The update itself is a verb of the backend, in place on lists of
    arrays.  Parameters whose ``grad`` is None are skipped; their state does not advance.

    Raises:
        ConfigError: no parameters, a parameter given twice, or an option out of range.
        TypeError: something that is no tensor.
    """

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(f"{type(self).__name__}: expected an iterable of tensors or dicts, got one Tensor; put it in a list")
        _expect_order(type(self).__name__, params)
        self.defaults = defaults
        self.state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        groups: list[Any] = list(params)
        if not groups:
            raise ConfigError(
                f"{type(self).__name__}: got no parameters; was the iterator used up, or the net built without layers?"
            )
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Optimise more parameters, with their own options: ``{"params": layer.parameters(), "lr": 0.01}``."""
        name = type(self).__name__
        if not isinstance(group, dict) or "params" not in group:
            raise TypeError(f"{name}: a parameter group is a dict with 'params', got {group!r}")
        given = group["params"]
        params = [given] if isinstance(given, Tensor) else list(given)
        _expect_order(name, given)
        group = {**self.defaults, **group}
        if params and isinstance(params[0], tuple):
            group["param_names"] = [label for label, _ in params]
            params = [p for _, p in params]
        known = {id(p) for other in self.param_groups for p in other["params"]}
        for index, p in enumerate(params):
            if not isinstance(p, Tensor):
                raise TypeError(f"{name}: parameters must be Tensors, number {index} is a {type(p).__name__}")
            if not p.is_leaf:
                raise ConfigError(f"{name}: parameter {index} was computed from others; optimise what it was computed from")
            if id(p) in known:
                raise ConfigError(f"{name}: parameter {index} of shape {tuple(p.shape)} is given twice, in this group or another")
            known.add(id(p))
        self._check(group)
        group["params"] = params
        self.param_groups.append(group)

    def _check(self, group: dict[str, Any]) -> None:
        """Raise a ConfigError when an option is out of range."""

    def _at_least(self, low: float, **options: float) -> None:
        for option, value in options.items():
            if not value >= low:
                raise ConfigError(f"{type(self).__name__}: {option} must be at least {low:g}, got {value!r}")

    def _fraction(self, **options: float) -> None:
        for option, value in options.items():
            if not 0.0 <= value < 1.0:
                raise ConfigError(f"{type(self).__name__}: {option} must be in [0, 1), got {value!r}")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        ``closure``, when given, computes the loss and its gradients first; its result is returned.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_backend: dict[Any, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_backend.setdefault(p.F, []).append(p)
            for F, params in by_backend.items():
                grads = [p.grad.data for p in params]  # type: ignore[union-attr]
                F.each_step(self, partial(self._step_on, F, group, params, [p.data for p in params], grads))
        return loss

    def _step_on(self, F: Any, group: dict[str, Any], params: list[Tensor], arrays: list[Any], grads: list[Any]) -> None:
        self._update(F, group, params, arrays, grads)
        increment_version(*params)

    def _update(self, F: Any, group: dict[str, Any], params: list[Tensor], arrays: list[Any], grads: list[Any]) -> None:
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def _slots(self, F: Any, params: list[Tensor], name: str, fill: float = 0.0) -> list[Any]:
        """The arrays of one kind of state, made (filled with ``fill``) for parameters that have none yet."""
        arrays = []
        for p in params:
            state = self.state[p]
            slot = state.get(name)
            if slot is None:
                array = F.zeros_like(p.data)
                if fill:
                    array += fill
                slot = state[name] = Tensor(array, F)
            arrays.append(slot.data)
        return arrays

    def _count(self, params: list[Tensor]) -> list[int]:
        """Count one more step of each parameter."""
        steps = []
        for p in params:
            state = self.state[p]
            state["step"] = step = state.get("step", 0) + 1
            steps.append(step)
        return steps

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters; ``set_to_none=False`` fills them with zeros instead."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none or p.grad is None:
                    p.grad = None
                else:
                    p.grad.detach_().zero_()

    def host_state(self) -> Callable[[], None]:
        """A function that puts back what the host keeps: which arrays there are, counters, options, and which gradients.

        What is in the arrays stays as it is.  (A CUDA graph runs the host's part of a step without the device's.)
        """
        states = {p: dict(state) for p, state in self.state.items()}
        groups = [dict(group) for group in self.param_groups]
        grads = [(p, p.grad) for group in groups for p in group["params"]]

        def restore() -> None:
            self.state.clear()
            self.state.update(states)
            for group, before in zip(self.param_groups, groups, strict=True):
                group.clear()
                group.update(before)
            for p, grad in grads:
                p.grad = grad

        return restore

    # ---- saving

    def state_dict(self) -> dict[str, Any]:
        """``{"state": {number: {...}}, "param_groups": [...]}``, torch's layout: parameters are numbered in order.

        The state's tensors are the optimiser's own, not copies.
        """
        numbers: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for p in group["params"]:
                numbers[id(p)] = len(numbers)
            groups.append({**group, "params": [numbers[id(p)] for p in group["params"]]})
        return {"state": {numbers[id(p)]: dict(state) for p, state in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over options and state saved by ``state_dict``, also torch's for the same update rule.

        Arrays are copied, and cast to the dtype of their parameter.

        Raises:
            CheckpointError: groups or shapes that do not match this optimiser's.
        """
        name = type(self).__name__
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
            raise CheckpointError(f"{name}.load_state_dict: expected a dict with 'state' and 'param_groups'")
        saved = state_dict["param_groups"]
        sizes = [len(g["params"]) for g in self.param_groups], [len(g["params"]) for g in saved]
        if sizes[0] != sizes[1]:
            raise CheckpointError(
                f"{name}.load_state_dict: the saved groups have {sizes[1]} parameters, this optimiser's {sizes[0]}; "
                "build it with the same groups in the same order"
            )
        by_number = {
            number: p
            for old, own in zip(saved, self.param_groups, strict=True)
            for number, p in zip(old["params"], own["params"], strict=True)
        }
        state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        for key, values in state_dict["state"].items():
            p = by_number.get(int(key))
            if p is None:
                raise CheckpointError(f"{name}.load_state_dict: state for parameter {key}, which no group has")
            state[p] = {option: self._own(name, option, value, p) for option, value in values.items()}
        for own, old in zip(self.param_groups, saved, strict=True):
            kept = {"params": own["params"]} | ({"param_names": own["param_names"]} if "param_names" in own else {})
            own.update({**copy.deepcopy({k: v for k, v in old.items() if k not in ("params", "param_names")}), **kept})
            if "betas" in own:
                own["betas"] = tuple(own["betas"])  # a file may have made a list of it
        self.state = state

    def _own(self, name: str, option: str, value: Any, p: Tensor) -> Any:
        """A saved value as this optimiser keeps it: "step" an int, arrays copied beside their parameter."""
        if option == "step":
            return int(value)
        if not hasattr(value, "shape"):
            return copy.deepcopy(value)
        if tuple(value.shape) != tuple(p.shape):
            raise CheckpointError(
                f"{name}.load_state_dict: {option} has shape {tuple(value.shape)}, its parameter {tuple(p.shape)}"
            )
        if isinstance(value, Tensor):
            value = value.detach().numpy()
        elif hasattr(value, "detach"):  # a torch tensor
            value = value.detach().cpu().numpy()
        return Tensor(p.F.array(value, p.dtype), p.F)

    def __repr__(self) -> str:
        lines = []
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key not in ("params", "param_names")]
        return f"{type(self).__name__} (\n" + "\n".join(lines) + "\n)"


def _expect_order(name: str, params: Any) -> None:
    if isinstance(params, (set, frozenset)):
        raise TypeError(f"{name}: parameters in a set have no fixed order, and saved state would be mixed up; use a list")
