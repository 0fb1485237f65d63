"""Reads pickles of plain values (numbers, text, bytes, lists, ...) without Python's unpickler.

What comes from workers reaches the agent as pickles that Parsl made, and a worker process is in
the hands of the tasks it runs. The unpickler of the standard library can be kept from importing
classes, but not from filling gigabytes at the wish of a nine-byte message (`LONG_BINPUT`). This
reader knows the few opcodes that protocols 4 and 5 write for plain values, makes nothing that is
not in the data, and refuses the rest. Pure functions.

Source of the opcodes: Python 3.13, Lib/pickletools.py.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any

_FIXED: dict[int, struct.Struct] = {
    ord("J"): struct.Struct("<i"),  # BININT
    ord("M"): struct.Struct("<H"),  # BININT2
    ord("G"): struct.Struct(">d"),  # BINFLOAT
}
_LENGTHS: dict[int, tuple[struct.Struct, bool]] = {  # the length's form; whether it is text
    0x8C: (struct.Struct("<B"), True),  # SHORT_BINUNICODE
    ord("X"): (struct.Struct("<I"), True),  # BINUNICODE
    0x8D: (struct.Struct("<Q"), True),  # BINUNICODE8
    ord("C"): (struct.Struct("<B"), False),  # SHORT_BINBYTES
    ord("B"): (struct.Struct("<I"), False),  # BINBYTES
    0x8E: (struct.Struct("<Q"), False),  # BINBYTES8
}
_CONSTANTS = {ord("N"): None, 0x88: True, 0x89: False}
_LONG_BINGET = struct.Struct("<I")
_DEEPEST = 100  # open lists, dictionaries and tuples at a time


def loads(data: bytes) -> Any:
    """Read a plain value.

    Raises:
        pickle.UnpicklingError: There is anything else in it, or it is no such pickle.
    """
    try:
        return _Reader(data).read()
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise pickle.UnpicklingError(f"not a pickle of plain values: {error!r}") from error


class _Reader:
    """One pass over one pickle."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: list[Any] = []

    def read(self) -> Any:
        """Obey the opcodes up to the end of the pickle."""
        data = self._data
        if data[0] != 0x80 or not 4 <= data[1] <= 5:
            raise ValueError("it is not of protocol 4 or 5")
        self._at = 2
        while True:
            code = data[self._at]
            self._at += 1
            if code == 0x94:  # MEMOIZE
                self._memo.append(self._stack[-1])
            elif code in _LENGTHS:
                self._stack.append(self._string(*_LENGTHS[code]))
            elif code == ord("K"):  # BININT1
                self._stack.append(data[self._at])
                self._at += 1
            elif code == ord("."):  # STOP
                (value,) = self._stack
                if self._marks or self._at != len(data):
                    raise ValueError("it does not end where it says")
                return value
            else:
                self._rarely(code)

    def _string(self, form: struct.Struct, is_text: bool) -> str | bytes:
        (length,) = form.unpack_from(self._data, self._at)
        start = self._at + form.size
        self._at = start + length
        if self._at > len(self._data):
            raise ValueError("it is cut off")
        piece = self._data[start : self._at]
        return str(piece, "utf-8", "surrogatepass") if is_text else piece

    def _rarely(self, code: int) -> None:
        stack = self._stack
        if code == ord("h"):  # BINGET
            stack.append(self._memo[self._data[self._at]])
            self._at += 1
        elif code == ord("j"):  # LONG_BINGET
            (place,) = _LONG_BINGET.unpack_from(self._data, self._at)
            stack.append(self._memo[place])
            self._at += _LONG_BINGET.size
        elif code == 0x95:  # FRAME, which only tells a stream's reader how much to fetch
            self._at += 8
        elif code == ord("("):  # MARK
            if len(self._marks) >= _DEEPEST:
                raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
            self._marks.append(stack)
            self._stack = []
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in _FIXED:
            form = _FIXED[code]
            stack.append(form.unpack_from(self._data, self._at)[0])
            self._at += form.size
        elif code == 0x8A:  # LONG1
            length = self._data[self._at]
            piece = self._data[self._at + 1 : self._at + 1 + length]
            self._at += 1 + length
            stack.append(int.from_bytes(piece, "little", signed=True))
        else:
            self._build(code)

    def _build(self, code: int) -> None:
        """What makes or fills lists, dictionaries and tuples."""
        stack = self._stack
        if code == ord("}"):  # EMPTY_DICT
            stack.append({})
        elif code == ord("]"):  # EMPTY_LIST
            stack.append([])
        elif code == ord(")"):  # EMPTY_TUPLE
            stack.append(())
        elif code == ord("s"):  # SETITEM
            value, key = stack.pop(), stack.pop()
            _check(stack[-1], dict)[key] = value
        elif code == ord("a"):  # APPEND
            value = stack.pop()
            _check(stack[-1], list).append(value)
        elif code in (0x85, 0x86, 0x87):  # TUPLE1, TUPLE2, TUPLE3
            count = code - 0x84
            if len(stack) < count:
                raise ValueError("a tuple has too few parts")
            stack[-count:] = [tuple(stack[-count:])]
        else:
            parts, self._stack = stack, self._marks.pop()
            stack = self._stack
            if code == ord("u"):  # SETITEMS
                _check(stack[-1], dict).update(zip(parts[::2], parts[1::2], strict=True))
            elif code == ord("e"):  # APPENDS
                _check(stack[-1], list).extend(parts)
            elif code == ord("t"):  # TUPLE
                stack.append(tuple(parts))
            else:
                raise ValueError(f"it holds more than plain values (opcode {code:#x})")


def _check(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} is not a {kind.__name__}")
    return value
