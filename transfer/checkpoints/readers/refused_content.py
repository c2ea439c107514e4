"""The two errors of a restricted reader: a name that could run code, content that is not plain."""

from __future__ import annotations

import pickle


class ForbiddenGlobal(pickle.UnpicklingError):
    """A pickle asked for something outside the table; the message is its name."""


class NotPlain(pickle.UnpicklingError):
    """Something that no file of weights needs, such as an array of objects; the message says what
    the file holds."""
