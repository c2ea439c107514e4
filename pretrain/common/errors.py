"""The exception that means "the input is wrong": tools print its line and exit with 2."""

from __future__ import annotations


class InputError(Exception):
    """Bad input. The message is one clear line that names the file or key, and the remedy."""
