"""Composes pickle programs: opcodes, globals of the unpickler's table, and states of its stack.

If the bytes of a valid pickle are changed, the program seldom runs for long. Here each step is
drawn from those that fit what is on the stack. So many programs run to their end, and their calls
and states are similar to real ones: a real call with one wrong argument, a real state with one
wrong field, a real argument for a different function.
"""

from __future__ import annotations

import pickle
import random
import struct
from collections.abc import Callable, Sequence

MOST_STEPS = (4, 12, 60)  # a wrong step ends a program: short ones are often read whole
FORBIDDEN = (
    ("os", "system"),
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("numpy", "load"),
    ("torch", "load"),
    ("numpy", "void"),
    ("numpy.core.multiarray", "array"),
    ("copyreg", "_reconstructor"),
)
SPELLED = tuple(
    "f4 <f8 i8 b1 u1 f2 c8 O O8 V8 V4 S3 U2 M8 m8 >i2 =f4 |b1 ? U999999 S0 f3 i4,f4 (2,)f4 object "
    "p".split()
)
WORDS = (
    *"< > | = C F K A latin1 utf8 rot13 zlib_codec _codecs encode __class__ __dict__".split(),
    *"__setstate__ __reduce__ value spelled name numpy.core.multiarray _reconstruct".split(),
    *("a b c", "b", "model", "x" * 200, "", "\u00e9", "1", "1e400", "0x1"),
)
NUMBERS = (
    *(0, 1, 2, 3, 4, 5, 8, 16, 25, 255, -1, -2, -(2**31), 2**31 - 1, 2**31, 2**63 - 1, 2**63),
    *(2**64, 10**30, 10**400, 1 << 48),
)


class Composer:
    """Draws one program.

    Attributes:
        globals: names of the unpickler's table, as (module, name).
    """

    def __init__(self, globals: Sequence[tuple[str, str]], draw: random.Random) -> None:
        self._globals, self._draw = list(globals), draw
        self._out: list[bytes] = []
        self._depth = 0  # of the stack above the innermost mark
        self._below: list[int] = []
        self._memo = 0

    def program(self) -> bytes:
        """A complete pickle of protocol 2 to 5."""
        steps: list[tuple[int, Callable[[], None]]] = [
            (10, self._push_value),
            (4, self._push_global),
            (3, self._push_call),
            (6, self._push_array),
            (4, self._push_dtype),
            (3, self._memo_put),
            (4, self._memo_get),
            (2, self._mark),
            (5, self._tuple),
            (2, self._call_top),
            (1, self._build_top),
            (4, self._fill_top),
            (2, self._close_mark),
            (2, self._shuffle),
            (1, self._double),
            (1, self._odd_opcode),
        ]
        weights, actions = zip(*steps)
        for _ in range(self._draw.randint(1, self._draw.choice(MOST_STEPS))):
            self._draw.choices(actions, weights)[0]()
        while self._below:
            self._close_mark()
        if not self._depth:
            self._push_value()
        if self._draw.random() < 0.3:  # as the value of a name, where readers look for tensors
            self._emit(b"}X\x05\x00\x00\x00modelN", 3)
            self._emit(b"s", -2)
        protocol = self._draw.choice((2, 2, 3, 4, 5))
        body = b"".join(self._out) + b"."
        if protocol >= 4 and self._draw.random() < 0.3:
            body = (
                b"\x95" + struct.pack("<Q", len(body) + self._draw.choice((0, 0, 0, 1, -1))) + body
            )
        return b"\x80" + bytes([protocol]) + body

    def _emit(self, code: bytes, pushed: int) -> None:
        self._out.append(code)
        self._depth += pushed

    def _push_value(self) -> None:
        self._emit(self._value(), 1)

    def _value(self) -> bytes:
        draw = self._draw
        kind = draw.randrange(12)
        if kind < 3:
            return _pushed(draw.choice(NUMBERS))
        if kind == 3:
            return _pushed(draw.choice((None, True, False, 0.5, float("nan"), float("inf"), 1e300)))
        if kind < 6:
            return _pushed(draw.choice(WORDS + SPELLED))
        if kind < 8:
            return _pushed(bytes(draw.choice((0, 1, 4, 8, 24, 96, 5000))))
        if kind == 8:
            data = bytes(draw.choice((0, 8, 24)))
            return b"\x96" + struct.pack("<Q", len(data)) + data
        if kind == 9:  # Python 2's text
            return b"U\x08" + bytes(draw.randrange(256) for _ in range(8))
        if kind == 10:
            shape = tuple(draw.choice(NUMBERS) for _ in range(draw.randrange(4)))
            return _pushed(shape)
        return draw.choice((b"]", b"}", b")", b"\x8f"))

    def _push_global(self) -> None:
        rare = self._draw.random() < 0.01
        self._emit(self._global(*self._draw.choice(FORBIDDEN if rare else self._globals)), 1)

    def _global(self, module: str, name: str) -> bytes:
        if self._draw.random() < 0.3:
            return _pushed(module) + _pushed(name) + b"\x93"
        return f"c{module}\n{name}\n".encode()

    def _push_call(self) -> None:
        """A call of something in the table, with drawn arguments."""
        self._push_global()
        arguments = b"".join(self._value() for _ in range(self._draw.randrange(4)))
        self._emit(b"(" + arguments + b"t", 1)
        self._emit(self._draw.choice((b"R", b"R", b"\x81")), -1)

    def _push_dtype(self) -> None:
        self._emit(self._dtype(), 1)

    def _dtype(self) -> bytes:
        draw = self._draw
        spelled = draw.choice(SPELLED if draw.random() < 0.5 else ("f4", "i8", "b1"))
        code = self._global("numpy", "dtype") + _pushed((spelled, False, True)) + b"R"
        if draw.random() < 0.3:
            return code
        state: list[object] = [3, draw.choice("<>|="), None, None, None, -1, -1, 0]
        if draw.random() < 0.3:  # one wrong field
            wrong = draw.choice(
                (None, 0, 1, 4, 8, 63, 255, -1, 2**40, "<", ("a", "b"), {}, (None, 0))
            )
            state[draw.randrange(8)] = wrong
        if draw.random() < 0.1:
            state.append(
                draw.choice((None, (None, (b"D", 1, 1, 1)), ({}, ("s", 25, 1, 1)), ("x",)))
            )
        return code + _pushed(tuple(state)) + b"b"

    def _push_array(self) -> None:
        """An array by one of the ways of numpy's pickles, often with one part of another kind."""
        draw = self._draw
        core = draw.choice(("numpy.core", "numpy._core"))
        shape = draw.choice(((2,), (2, 3), (), (0,), (1 << 40,), (-1,), (2**63,), (1,) * 33))
        count = 1
        for n in shape:
            count *= max(n, 0)
        data = _pushed(bytes(min(count, 100) * draw.choice((1, 2, 4, 8))))
        parts = [_pushed(shape), self._dtype(), _pushed(draw.choice((False, True, None))), data]
        if draw.random() < 0.4:
            parts[draw.randrange(4)] = self._value()
        way = draw.randrange(3)
        if way == 0:
            made = self._global(f"{core}.multiarray", "_reconstruct")
            made += b"(" + self._global("numpy", "ndarray") + _pushed((0,)) + _pushed(b"b") + b"tR"
            version = _pushed(1) if draw.random() < 0.9 else b""
            self._emit(made + b"(" + version + b"".join(parts) + b"tb", 1)
        elif way == 1:
            made = self._global(f"{core}.numeric", "_frombuffer")
            order = _pushed(draw.choice("CFKA"))
            axes = _pushed((1, 0)) if draw.random() < 0.2 else b""
            self._emit(made + b"(" + parts[3] + parts[1] + parts[0] + order + axes + b"tR", 1)
        else:
            made = self._global(f"{core}.multiarray", "scalar")
            self._emit(made + b"(" + parts[1] + parts[3] + b"tR", 1)

    def _memo_put(self) -> None:
        if self._depth:
            self._emit(b"r" + struct.pack("<I", self._memo), 0)
            self._memo += 1

    def _memo_get(self) -> None:
        if self._memo:
            self._emit(b"j" + struct.pack("<I", self._draw.randrange(self._memo)), 1)

    def _mark(self) -> None:
        self._emit(b"(", 0)
        self._below.append(self._depth)
        self._depth = 0

    def _close_mark(self) -> None:
        """Ends the innermost mark by one of the opcodes that take all above it."""
        if not self._below:
            return
        draw, items = self._draw, self._depth
        makers = [b"t", b"l", b"d", b"\x91", b"1"]  # tuple, list, dict, frozenset, drop
        if items:
            makers.append(b"o")
        takers = (
            [b"e", b"u", b"\x90"] if self._below[-1] else []
        )  # append, set, add to what is below
        code = draw.choice(makers + takers)
        self._depth = self._below.pop()
        self._emit(code, 0 if code in takers or code == b"1" else 1)

    def _tuple(self) -> None:
        n = self._draw.randint(1, 3)
        if self._depth >= n:
            self._emit((b"\x85", b"\x86", b"\x87")[n - 1], 1 - n)

    def _call_top(self) -> None:
        """Calls what is below the top with it, or with drawn keywords."""
        if self._depth >= 2:
            if self._draw.random() < 0.2:
                self._emit(b"}" + _pushed("x") + self._value() + b"s\x92", -1)
            else:
                self._emit(self._draw.choice((b"R", b"\x81")), -1)

    def _build_top(self) -> None:
        if self._depth:
            state = self._draw.choice(
                (
                    self._value(),
                    b"}" + _pushed(self._draw.choice(WORDS)) + self._value() + b"s",
                    b"N}" + _pushed(self._draw.choice(WORDS)) + self._value() + b"s\x86",
                )
            )
            self._emit(state + b"b", 0)

    def _fill_top(self) -> None:
        """Puts the top into what is below it."""
        if self._depth >= 3 and self._draw.random() < 0.6:
            self._emit(b"s", -2)
        elif self._depth >= 2:
            self._emit(b"a", -1)

    def _shuffle(self) -> None:
        if self._depth:
            self._emit(*self._draw.choice(((b"2", 1), (b"0", -1))))

    def _double(self) -> None:
        """Containers that hold the one before many times: few bytes, very many paths."""
        draw = self._draw
        if not self._depth:
            self._push_value()
        times = draw.choice((3, 30, 90, 400))
        kind = draw.randrange(4)
        if kind == 0:
            self._emit(b"2\x86" * times, 0)
        elif kind == 1:
            self._emit(b"\x85" * times * 100, 0)
        elif kind == 2:
            put = [b"r" + struct.pack("<I", self._memo + i) for i in range(times)]
            get = [b"j" + struct.pack("<I", self._memo + i) for i in range(times)]
            self._memo += times
            self._emit(b"".join(p + b"0](" + g * 9 + b"e" for p, g in zip(put, get)), 0)
        else:  # as the key of a mapping
            self._emit(b"\x85" * draw.choice((2, 4, 50_000)), 0)
            self._emit(b"r" + struct.pack("<I", self._memo) + b"0}j", 0)
            self._emit(struct.pack("<I", self._memo) + b"Ns", 0)
            self._memo += 1

    def _odd_opcode(self) -> None:
        """Opcodes with wrong lengths: those of other objects, or any other number."""
        draw = self._draw
        huge = draw.choice((0, 100, 2**31 - 1, 2**31, 2**40, 2**62, 2**64 - 1))
        self._emit(
            draw.choice(
                (
                    b"\x8d" + struct.pack("<Q", huge),  # text
                    b"\x8e" + struct.pack("<Q", huge),  # bytes
                    b"\x96" + struct.pack("<Q", huge),  # bytearray
                    b"\x95" + struct.pack("<Q", huge),  # frame
                    b"\x8b" + struct.pack("<I", huge % 2**32),  # number
                    b"r" + struct.pack("<I", huge % 2**32),
                    b"P" + b"reference\n",
                    _pushed("reference") + b"Q",
                    b"\x82\x01",
                    b"\x84" + struct.pack("<I", huge % 2**32),
                    b"\x97",
                    b"\x98",
                    b"i" + b"builtins\nlist\n",
                    b"I" + b"9" * 5000 + b"\n",
                    b"F1e999\n",
                    b"S'a'\n",
                    b"V\\u00e9\n",
                    b"p" + b"-1\n",
                    b"g" + b"99999999999999999999\n",
                    bytes([draw.randrange(256)]),
                )
            ),
            1,
        )


def _pushed(value: object) -> bytes:
    """Opcodes that push a plain value."""
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_pushed, value)) + b"t"
    if isinstance(value, dict):
        return b"}"
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    return pickle.dumps(value, protocol=2)[2:-1]
