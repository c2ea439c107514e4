"""Pickles as an attacker writes them: programs of opcodes, composed without a pickler."""

from __future__ import annotations

import pickle
import struct
from typing import Any

PLAIN = (type(None), bool, int, float, str, bytes, bytearray)


def value(content: Any) -> bytes:
    """Opcodes that push a plain value; bytes of the type `Code` are taken as they are."""
    if isinstance(content, Code):
        return bytes(content)
    if isinstance(content, tuple):
        return b"(" + b"".join(map(value, content)) + b"t"
    if isinstance(content, list):
        return b"](" + b"".join(map(value, content)) + b"e"
    if isinstance(content, dict):
        items = b"".join(value(key) + value(one) for key, one in content.items())
        return b"}(" + items + b"u"
    if isinstance(content, bytes):
        return b"B" + struct.pack("<I", len(content)) + content
    assert isinstance(content, PLAIN), content
    body = pickle.dumps(content, protocol=2)[2:-1]
    return body[: body.rindex(b"q")] if isinstance(content, str) else body


class Code(bytes):
    """Opcodes that push one object."""


def named(module: str, name: str) -> Code:
    """A global."""
    return Code(f"c{module}\n{name}\n".encode())


def called(function: bytes, *arguments: Any) -> Code:
    """The result of a call."""
    return Code(function + value(arguments) + b"R")


def built(instance: bytes, state: Any) -> Code:
    """An object with a state that is set by BUILD."""
    return Code(instance + value(state) + b"b")


def program(*parts: bytes, protocol: int = 4) -> bytes:
    """A complete pickle."""
    return b"\x80" + bytes([protocol]) + b"".join(parts) + b"."
