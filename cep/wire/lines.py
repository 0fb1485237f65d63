"""Large base64 texts in lines of 76 characters, as most payloads are, read and written as a whole.

In a JSON text the end of a line is two characters. JSON's own reader and writer look at each
character and make a piece of each line; here, what is the same for all lines is done at one go.
Everything irregular is left to whoever asks. Pure functions; any thread.
"""

from __future__ import annotations

import base64 as slow_base64
import struct

try:
    import pybase64 as base64
except ImportError:  # an environment that somebody made for workers; many times slower
    base64 = None  # type: ignore[assignment]

LARGE = 16 * 1024  # characters from which it pays to look for lines
_LINE = 76  # characters; source: MIME, RFC 2045 section 6.8, and Python's base64.encodebytes
_ESCAPED = _LINE + 2
_END = b"\\n"  # of a line in a JSON text
_MANY = struct.Struct(f"{_LINE}s" * 512)
_FEWEST = 16  # lines that are handled together
_MOST_SINGLE = 256  # lines that are read one by one before the text counts as irregular
# Printable ASCII but for the quotation mark and the backslash.
_PLAIN = bytes(code for code in range(0x20, 0x7F) if code not in b'"\\')


class Written:
    """A text that is written as JSON already, and is read again only when somebody asks for it.

    Attributes:
        json: The JSON text without its quotation marks.
    """

    __slots__ = ("_length", "json")

    def __init__(self, json: bytes, length: int) -> None:
        self.json = json
        self._length = length

    def __len__(self) -> int:
        """How many characters the text has."""
        return self._length

    def __str__(self) -> str:
        """The text itself."""
        return self.json.replace(_END, b"\n").decode("ascii")


def written(head: str, data: bytes) -> Written:
    """Write bytes in base64, as `base64.encodebytes` cuts it into lines, behind a head.

    Args:
        head: ASCII without quotation mark, backslash and control characters but ends of lines.
        data: What is to be written; at least one byte.
    """
    text = _encode(data)
    whole = len(text) - len(text) % _MANY.size
    parts = [head.replace("\n", "\\n").encode("ascii")]
    for lines in _MANY.iter_unpack(memoryview(text)[:whole]):
        parts += (_END.join(lines), _END)
    for at in range(whole, len(text), _LINE):
        parts += (text[at : at + _LINE], _END)
    count = -(-len(text) // _LINE)
    return Written(b"".join(parts), len(head) + len(text) + count)


def decode(text: str) -> bytes | None:
    """Read a base64 text that is cut into full lines; None when it is not one, or cannot be read.

    What is read here is what any other reader of base64 makes of it.
    """
    if base64 is None or not text.isascii():
        return None
    plain = bytearray(text, "ascii")
    ends = plain[_LINE :: _LINE + 1]
    if ends != b"\n" * len(ends):
        return None
    del plain[_LINE :: _LINE + 1]
    if plain.endswith(b"\n"):
        del plain[-1]
    try:
        return base64.b64decode(plain, validate=True)
    except ValueError:
        return None


def unescape(json: bytes) -> str | None:
    """Read the inside of a JSON text whose only escapes are ends of lines.

    Args:
        json: What stands between the quotation marks; there is no quotation mark in it.

    Returns:
        None when there is anything in it that JSON's own reader should judge.
    """
    parts: list[bytes | bytearray] = []
    single: list[bytes] = []
    at = 0
    for _ in range(_MOST_SINGLE):
        end = json.find(_END, at)
        if end < 0:
            break
        lines = _full_lines(json, at) if end - at == _LINE else 0
        if lines >= _FEWEST:
            read = _read_lines(memoryview(json)[at : at + lines * _ESCAPED])
            if not read:
                return None
            parts.append(read)
            at += len(read) // (_LINE + 1) * _ESCAPED
        else:
            single.append(json[at:end])
            parts += (single[-1], b"\n")
            at = end + len(_END)
    else:
        return None
    single.append(json[at:])
    parts.append(single[-1])
    if b"".join(single).translate(None, _PLAIN):
        return None
    return b"".join(parts).decode("ascii")


def _full_lines(json: bytes, at: int) -> int:
    """How many full lines follow each other from here on, without one that holds the padding."""
    stop = len(json) - (len(json) - at) % _ESCAPED
    lines = min(
        len(column) - len(column.lstrip(end))
        for column, end in (
            (json[at + _LINE : stop : _ESCAPED], b"\\"),
            (json[at + _LINE + 1 : stop : _ESCAPED], b"n"),
        )
    )
    padded = json.endswith(b"=", at, at + lines * _ESCAPED - len(_END))
    return lines - 1 if padded else lines


def _read_lines(json: memoryview) -> bytearray | None:
    """Read what ends like full lines, up to one that is several shorter ones.

    Returns:
        None when anything but base64 is in it.
    """
    text = bytearray(json)
    del text[_LINE::_ESCAPED]
    shorter = text.find(b"\\")
    if shorter >= 0:
        del text[shorter - shorter % (_LINE + 1) :]
    plain = text[:]
    del plain[_LINE :: _LINE + 1]
    if base64 is None:
        if plain.translate(None, _PLAIN):
            return None
    else:
        try:
            base64.b64decode(plain, validate=True)
        except ValueError:
            return None
    text[_LINE :: _LINE + 1] = b"\n" * (len(text) // (_LINE + 1))
    return text


def _encode(data: bytes) -> bytes:
    return slow_base64.b64encode(data) if base64 is None else base64.b64encode(data)
