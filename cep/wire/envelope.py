"""The envelope of every message: one version byte, then compact UTF-8 JSON with a type and data.

Owns the rules that all messages share: what is packed is byte for byte what globus-compute-common
1.0.0 packs, and what is unpacked is checked strictly, except that unknown fields are ignored, so
that newer senders are understood. Pure functions; any thread.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from cep.errors import WireError
from cep.wire import lines
from cep.wire.lines import Written

# Source: globus-compute-common 1.0.0, messagepack protocol 1.
PROTOCOL_VERSION = 1
VERSION_BYTE = bytes((PROTOCOL_VERSION,))

_encode_any = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=True, separators=(",", ":")
).encode
_encode_text = json.encoder.encode_basestring  # the same for a text, without asking what it is


def _finite(text: str) -> float | None:
    """A number, or None for one that JSON has no word for.

    Python writes NaN and Infinity all the same: the published endpoint 2.19 does so in its status
    reports, and who passes them on could not.
    """
    number = float(text)
    return number if math.isfinite(number) else None


_decode_text = json.JSONDecoder(parse_float=_finite, parse_constant=_finite).decode

# What stands for half of a surrogate pair in a JSON text; a cheaper question than two of `in`.
_SURROGATE = re.compile(r"\\u[dD]")

# From this length a text is first asked whether it is plain: then only its ends of lines have to be
# written otherwise, which is four times as fast as looking at each character for all JSON escapes.
_LARGE = 16 * 1024
# Printable ASCII but for the quotation mark and the backslash, and the end of a line.
_PLAIN = bytes(code for code in range(0x20, 0x7F) if code not in b'"\\') + b"\n"

# Levels of objects and lists in a message. Python's JSON reads more than it can write again from a
# deeper stack, and whoever passes a message on must be able to write it.
DEEPEST = 64

# As uuid.UUID accepts from a message: with or without hyphens, in either case, ASCII only.
_UUID = re.compile(
    r"([0-9a-fA-F]{8})-?([0-9a-fA-F]{4})-?([0-9a-fA-F]{4})-?([0-9a-fA-F]{4})-?([0-9a-fA-F]{12})"
)
_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Encoded(str):
    """A value that is written as JSON already; it goes into a message as it is."""

    __slots__ = ()


def pack(message_type: str, data: Mapping[str, Any]) -> bytes:
    """Pack a message.

    Args:
        message_type: Name of the type, e.g. `result`.
        data: The fields, in the order in which they go on the wire; JSON values, or `Encoded`.

    Returns:
        The version byte and the JSON text. Characters that UTF-8 cannot carry (lone surrogates,
        as they occur in file names) become `?`, since receivers refuse them.

    Raises:
        WireError: `data` holds something JSON has no word for.
    """
    try:
        # Field by field: JSON's encoder is quick with a text, and slow to begin with an object.
        fields = ",".join([f"{_encode_text(key)}:{encode(value)}" for key, value in data.items()])
        text = f'{{"message_type":{_encode_text(message_type)},"data":{{{fields}}}}}'
    except (TypeError, ValueError, RecursionError) as exc:
        raise no_word(message_type, exc) from exc
    return VERSION_BYTE + to_utf8(text)


def pack_around(message_type: str, data: Mapping[str, Any]) -> bytes:
    """Pack a message of which some values are `Written`; otherwise as `pack`."""
    parts = [VERSION_BYTE]
    text = f'{{"message_type":{_encode_text(message_type)},"data":{{'
    comma = ""
    try:
        for key, value in data.items():
            text = f"{text}{comma}{_encode_text(key)}:"
            comma = ","
            if isinstance(value, Written):
                parts += (to_utf8(f'{text}"'), value.json)
                text = '"'
            else:
                text += encode(value)
    except (TypeError, ValueError, RecursionError) as exc:
        raise no_word(message_type, exc) from exc
    parts.append(to_utf8(f"{text}}}}}"))
    return b"".join(parts)


def no_word(message_type: str, exc: Exception) -> WireError:
    """The error for what JSON has no word for, of which `encode` has said `exc`."""
    return WireError(
        f"A {message_type} message cannot be written as JSON ({type(exc).__name__}: {exc})."
    )


def encode(value: Any) -> str:
    """Write one value of a message as JSON.

    Raises:
        TypeError: JSON has no word for it.
        ValueError: The same, for a number or for what contains itself.
    """
    if value is None:
        return "null"
    kind = type(value)
    if kind is Encoded:
        return str.__str__(value)
    if kind is int:
        return int.__repr__(value)
    if kind is not str:
        return _encode_any(value)
    if len(value) > _LARGE and value.isascii() and not value.encode().translate(None, _PLAIN):
        text = value.replace("\n", "\\n")
        return f'"{text}"'
    return _encode_text(value)


def to_utf8(text: str) -> bytes:
    """Encode text; lone surrogates become `?` because no receiver accepts them."""
    return text.encode("utf-8", "replace")


def unpack(body: bytes) -> tuple[str, dict[str, Any]]:
    """Open an envelope and return the message's type and data.

    Half of a surrogate pair, which JSON can name and no text can hold, becomes `?`.

    Raises:
        WireError: The body is empty, has another version byte, is not UTF-8 JSON, is nested more
            than `DEEPEST` levels deep, or is not an object with a text `message_type` and an
            object `data`. Its `task_id` is set when the data names one.
    """
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise WireError(f"A message is bytes; got {type(body).__name__}.")
    if len(body) == 0:
        raise WireError("The message is empty.")
    if body[0] != PROTOCOL_VERSION:
        raise WireError(
            f"The message has version byte {body[0]}; this endpoint speaks {PROTOCOL_VERSION} only."
        )
    try:
        text = str(memoryview(body)[1:], "utf-8")
        envelope = _decode_text(text)
    except UnicodeDecodeError as exc:
        raise WireError(f"The message is not UTF-8 text (at byte {exc.start + 1}).") from exc
    except (ValueError, RecursionError) as exc:
        raise WireError(f"The message is not JSON ({_reason(exc)}).") from exc
    large = len(text) > _LARGE
    # A short text with so few brackets in all cannot be deep, and counting them is cheaper.
    if (large or text.count("{") + text.count("[") > DEEPEST) and deeper_than(envelope, DEEPEST):
        raise WireError(f"The message is nested more than {DEEPEST} levels deep.")
    if not (large and _is_ascii(envelope)) and _SURROGATE.search(text):
        envelope = _decode_text(str(to_utf8(_encode_any(envelope)), "utf-8"))
    if not isinstance(envelope, dict):
        raise WireError(f"The message is a JSON {_json_kind(envelope)}, not an object.")
    message_type = envelope.get("message_type")
    data = envelope.get("data")
    if not isinstance(message_type, str):
        task_id = read_uuid(data.get("task_id")) if isinstance(data, dict) else None
        raise WireError("The message has no text field 'message_type'.", task_id=task_id)
    if not isinstance(data, dict):
        raise WireError(f"The {message_type[:64]!r} message has no object field 'data'.")
    return message_type, data


def expect(body: bytes, message_type: str, large: str | None = None) -> dict[str, Any]:
    """Open an envelope that must hold this type and return its data.

    Args:
        body: The message.
        message_type: The wanted type.
        large: The field that may hold a large text; that is read faster then, where it can be.

    Raises:
        WireError: As `unpack`, or the message is of another type.
    """
    found, data = _unpack_large(body, large) or unpack(body)
    if found != message_type:
        raise WireError(
            f"The message is a {found[:64]!r}, not a {message_type!r}.",
            task_id=read_uuid(data.get("task_id")),
        )
    return data


def _unpack_large(body: bytes, field: str | None) -> tuple[str, dict[str, Any]] | None:
    """Open an envelope as `unpack` does, its large text apart; None when that cannot be done."""
    if field is None or len(body) <= lines.LARGE or not isinstance(body, bytes):
        return None
    name = f'"{field}"'.encode()
    found_at = body.find(name + b':"')
    if found_at < 0:
        return None
    start = found_at + len(name) + 2
    end = body.find(b'"', start)
    rest = body[:start] + body[end:]
    # With one such name and no escapes there is one such field, however it is spelled.
    if end < 0 or len(rest) > lines.LARGE or b"\\" in rest or rest.count(name) != 1:
        return None
    try:
        found, data = unpack(rest)
    except WireError:
        return None  # what is said of it shall be said of the whole
    text = lines.unescape(body[start:end]) if data.get(field) == "" else None
    if text is None:
        return None
    data[field] = text
    return found, data


def read_uuid(value: object) -> str | None:
    """Return the canonical text (lower case, hyphens) of a UUID, or None when it is none."""
    if not isinstance(value, str):
        return None
    if _CANONICAL.fullmatch(value):
        return value
    match = _UUID.fullmatch(value)
    return None if match is None else "-".join(match.groups()).lower()


def deeper_than(value: object, levels: int) -> bool:
    """Whether objects and lists (as JSON gives them) are nested more than so many levels deep."""
    inner = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        if not inner:
            return False
        inner = [
            child
            for one in inner
            for child in (one.values() if isinstance(one, dict) else one)
            if isinstance(child, dict | list)
        ]
    return bool(inner)


def _is_ascii(value: object) -> bool:
    """Whether all texts in it surely are ASCII; a text knows that of itself."""
    if isinstance(value, str):
        return value.isascii()
    if isinstance(value, dict):
        return all(key.isascii() and _is_ascii(inner) for key, inner in value.items())
    return not isinstance(value, list)


def _reason(exc: Exception) -> str:
    if isinstance(exc, json.JSONDecodeError):
        return f"{exc.msg} at character {exc.pos}"
    return type(exc).__name__


def _json_kind(value: object) -> str:
    names = {str: "string", list: "array", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), "value")
