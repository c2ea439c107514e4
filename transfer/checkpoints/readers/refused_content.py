"""Two errors of a restricted reader: a name that could run code, and content that is not plain."""

from __future__ import annotations

import pickle


class ForbiddenGlobal(pickle.UnpicklingError):
    """Says that a pickle needs a name that is not in the table of allowed names; the message is the
    name.
    """


class NotPlain(pickle.UnpicklingError):
    """Is raised for content that no weights file needs, such as an array of objects; the message
    names it.
    """
