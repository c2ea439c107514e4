"""Which class is which: the names in a model's file against the names in the data.

In: lists of class names. Out: the order that a test set is read in, a warning if the order was
another one, or InputError if the names differ.
"""

from __future__ import annotations

from collections.abc import Sequence

from pretrain.common.errors import InputError
from pretrain.common.findings import warn_once

SHOWN = 10  # names that a message lists


def shown(names: Sequence[str]) -> str:
    """The names for a message, the first ones alone if there are many."""
    listed = ", ".join(names[:SHOWN])
    return f"{listed}, ... ({len(names)} in all)" if len(names) > SHOWN else listed


def order_of(
    model: str, theirs: Sequence[str], data: str, ours: Sequence[str], *, whole: bool
) -> tuple[str, ...]:
    """The order in which a model's data must be read: the model's own.

    Args:
        model, data: how messages name them.
        theirs, ours: the names, each in its own order.
        whole: whether the data must have every class of the model; a test set may lack some.

    Raises:
        InputError: the names differ; the message has both lists.
    """
    unknown = set(ours) - set(theirs)
    if unknown or (whole and len(ours) != len(theirs)):
        raise InputError(
            f"the classes of {model} ({shown(theirs)}) are not those of {data} ({shown(ours)}); "
            "give the data that it was trained for, or rename the classes there"
        )
    present = [name for name in theirs if name in ours]
    if present != list(ours):
        warn_once(
            f"the classes of {data} ({shown(ours)}) are in a different order than those of {model} "
            f"({shown(theirs)}); they are mapped by name"
        )
    return tuple(theirs)


def warn_of_unnamed(model: str, classes: Sequence[str]) -> None:
    """Warns, once in a process, that a model's classes are taken to be these, in this order."""
    warn_once(
        f"{model} does not name its classes; they are taken to be those of the data, in this "
        f"order: {shown(classes)}"
    )
