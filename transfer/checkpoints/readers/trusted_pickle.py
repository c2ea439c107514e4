"""Reads pickles that the user trusts (`--trust`): the tensors are found whatever else they hold.

If a file names something that this machine does not have (a class of somebody's `__main__`, a
config library that is not installed) or that cannot be built here (a path of a different system),
an inert object takes its place and keeps its state. A module becomes its state_dict, even if its
class is missing.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, BinaryIO

from torch import Tensor

DEPTH = 6  # depth of nested containers in which modules are searched


class Absent:
    """Replaces an object whose class is missing or that cannot be built; keeps its state."""

    def __new__(cls, *args: object, **kwargs: object) -> Absent:
        """Makes an empty object from any arguments."""
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Forgets the arguments."""

    def __setstate__(self, state: object) -> None:
        """Keeps the attributes of a mapping, or those of the first part of a pair with slots."""
        state = state[0] if isinstance(state, tuple) and state else state
        if isinstance(state, Mapping):
            self.__dict__.update({str(key): value for key, value in state.items()})

    def __setitem__(self, key: object, value: object) -> None:
        """Forgets an item."""

    def append(self, value: object) -> None:
        """Forgets an item."""

    def extend(self, values: object) -> None:
        """Forgets items."""

    def __call__(self, *args: object, **kwargs: object) -> Absent:
        """Returns a second `Absent`: functions of absent modules are called, too."""
        return Absent()

    def __hash__(self) -> int:
        return id(self)


def _or_absent(step: Callable[[Any], None]) -> Callable[[Any], None]:
    """Runs a step of the unpickler that builds an object; if it fails, the object is an
    `Absent`.
    """

    def safely(unpickler: Any) -> None:
        stack, meta = list(unpickler.stack), [list(part) for part in unpickler.metastack]
        try:
            step(unpickler)
        except Exception:  # any kind of error: the file's own code raises it
            unpickler.stack[:], unpickler.metastack[:] = stack, meta
            unpickler.stack.pop()
            unpickler.stack[-1] = Absent()

    return safely


def _build_or_absent(unpickler: Any) -> None:
    """Sets an object's state; if it does not fit, an `Absent` keeps it."""
    state, instance = unpickler.stack[-1], unpickler.stack[-2]
    try:
        pickle._Unpickler.dispatch[pickle.BUILD[0]](unpickler)
    except Exception:
        if unpickler.stack and unpickler.stack[-1] is state:
            unpickler.stack.pop()
        kept = Absent()
        kept.__setstate__(state)
        if unpickler.stack and unpickler.stack[-1] is instance:
            unpickler.stack[-1] = kept


class TrustingUnpickler(pickle._Unpickler):
    """Runs what the file says; objects that fail become an `Absent`."""

    dispatch = {
        **pickle._Unpickler.dispatch,
        **{
            code[0]: _or_absent(pickle._Unpickler.dispatch[code[0]])
            for code in (pickle.REDUCE, pickle.NEWOBJ)
        },
        pickle.BUILD[0]: _build_or_absent,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Returns the object of that name, or `Absent`."""
        try:
            return super().find_class(module, name)
        except Exception:  # importing a module can raise any error
            return Absent


def trusted_load(stream: BinaryIO, encoding: str = "latin1") -> Any:
    """Loads one pickle, running what it says."""
    return TrustingUnpickler(stream, encoding=encoding).load()


# For torch.load, which derives an unpickler from this one.
PICKLE = SimpleNamespace(
    Unpickler=TrustingUnpickler,
    load=lambda stream, **options: TrustingUnpickler(stream, **options).load(),
    UnpicklingError=pickle.UnpicklingError,
    __name__="pickle",
)


def plain_modules(value: Any, depth: int = 0) -> Any:
    """Returns the value with each module replaced by its state_dict; containers are copied."""
    if _is_module(value):
        return OrderedDict(_state_of(value, ""))
    if isinstance(value, dict) and depth < DEPTH:
        new = {key: plain_modules(one, depth + 1) for key, one in value.items()}
        return value if all(new[key] is value[key] for key in value) else new
    if type(value) in (list, tuple) and depth < DEPTH:
        made = [plain_modules(one, depth + 1) for one in value]
        return value if all(one is old for one, old in zip(made, value)) else made
    return value


def _is_module(value: Any) -> bool:
    attributes = getattr(value, "__dict__", None)
    return isinstance(attributes, dict) and {"_parameters", "_modules"} <= attributes.keys()


def _state_of(module: Any, before: str) -> dict[str, Tensor]:
    """Returns what `module.state_dict()` gives, read from its attributes."""
    attributes = vars(module)
    fleeting = attributes.get("_non_persistent_buffers_set") or ()
    state: dict[str, Tensor] = {}
    for part in ("_parameters", "_buffers"):
        for name, value in (attributes.get(part) or {}).items():
            if isinstance(value, Tensor) and name not in fleeting:
                state[f"{before}{name}"] = value.detach()
    for name, inner in (attributes.get("_modules") or {}).items():
        if _is_module(inner):
            state |= _state_of(inner, f"{before}{name}.")
    return state
