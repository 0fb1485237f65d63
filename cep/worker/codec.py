"""Payload buffers to objects and back, without importing the SDK for the strategies we know.

Importing `globus_compute_sdk` costs 0.3 s and some 30 MiB; its serializer needs dill and base64
only. So the strategies of SDK 4.19 are read here, and the ones for results are written here.
Whatever is not known here (another identifier, a strategy class of somebody's own, an allow-list
that names one, a combination that does not load) is left to the SDK, errors included.

Runs in workers, in the thread that runs the task. This module unpickles: the agent must not call
it, except inside a task of the thread engine.
"""

from __future__ import annotations

import binascii
import functools
import io
import json
import logging
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import dill

from cep.wire import buffers, lines
from cep.wire.lines import Written
from cep.worker import functions

try:
    import pybase64 as base64
except ImportError:  # an environment that somebody made for workers; ten times slower
    import base64  # type: ignore[no-redef]

_LONGEST_END = len("==\n")
_SERIALIZE_MODULES = ("globus_compute_sdk.serialize", "globus_compute_sdk.serialize.concretes")
_ALL_CODE = "globus_compute_sdk.*Code"
_ALL_DATA = "globus_compute_sdk.*Data"


class SerializationError(Exception):
    """No strategy could write the result."""


# Identifier, and whether it is for code. What SDK 4.19 calls selectable: not the legacy pickle.
_STRATEGIES = {
    "DillDataBase64": (buffers.DILL_DATA, False),
    "JSONData": (buffers.JSON_DATA, False),
    "AllDataStrategies": (buffers.ALL_DATA, False),
    "DillCode": (buffers.DILL_CODE, True),
    "DillCodeTextInspect": (buffers.TEXT_INSPECT_CODE, True),
    "DillCodeSource": (buffers.DILL_SOURCE_CODE, True),
    "CombinedCode": (buffers.COMBINED_CODE, True),
    "AllCodeStrategies": (buffers.ALL_CODE, True),
    "PureSourceTextInspect": (buffers.PURE_TEXT_INSPECT_CODE, True),
    "PureSourceDill": (buffers.PURE_DILL_SOURCE_CODE, True),
}
_KNOWN_PATHS = {
    f"{module}.{name}": entry
    for module in _SERIALIZE_MODULES
    for name, entry in _STRATEGIES.items()
}


def load_task(task_buffer: str, allowed: tuple[str, ...] | None) -> tuple[Any, Any, Any]:
    """Unpack a task's payload and rebuild function, positional and keyword arguments.

    Args:
        task_buffer: Three packed buffers.
        allowed: Import paths of strategies that may be used, or None for all.

    Raises:
        ValueError: There are not exactly three buffers.
        Exception: Whatever the payload's own code raises, and the SDK's errors.
    """
    packed = buffers.unpack_buffers(task_buffer)
    if len(packed) != 3:
        raise ValueError(
            f"A task has three buffers (function, arguments, keyword arguments); got {len(packed)}."
        )
    function, arguments, keywords = packed
    return load(function, allowed), load(arguments, allowed), load(keywords, allowed)


def load(buffer: str, allowed: tuple[str, ...] | None = None) -> Any:
    """Rebuild one object from its buffer.

    Args:
        buffer: Identifier and payload.
        allowed: As for `load_task`.
    """
    identifier = buffer[: buffers.IDENTIFIER_LENGTH]
    reader = _READERS.get(identifier)
    if reader is None:
        return _sdk_load(buffer, allowed)
    if allowed:
        permitted = _permitted(allowed)
        if permitted is None or identifier not in permitted:
            return _sdk_load(buffer, allowed)
    return reader(buffer)


def dump(value: Any, strategies: Sequence[str] = ()) -> str | Written:
    """Serialize a result with the first strategy that can; a large one as JSON will have it.

    Args:
        value: The function's return value.
        strategies: Import paths, in order; empty means the SDK's defaults (dill and base64).

    Raises:
        SerializationError: None of them can; the last failure is its cause.
    """
    for_code = callable(value)
    if not strategies:
        strategies = (_DEFAULT_CODE,) if for_code else (_DEFAULT_DATA,)
    last: Exception | None = None
    for position, path in enumerate(strategies):
        entry = _KNOWN_PATHS.get(path)
        writer = None if entry is None else _WRITERS.get(entry[0])
        if entry is None or writer is None:
            return _sdk_dump(value, strategies[position:])
        if entry[1] is not for_code:
            kinds = ("data", "code")
            last = TypeError(
                f"{path} is for {kinds[entry[1]]}, and the result is {kinds[for_code]}."
            )
            continue
        try:
            return writer(value)
        except Exception as exc:
            last = exc
    raise SerializationError(
        f"Serialization of the result (a {type(value).__name__}) failed with "
        f"{', '.join(path.rpartition('.')[2] for path in strategies)}."
    ) from last


_DEFAULT_CODE = "globus_compute_sdk.serialize.concretes.DillCode"
_DEFAULT_DATA = "globus_compute_sdk.serialize.concretes.DillDataBase64"


@functools.lru_cache(maxsize=8)
def _permitted(allowed: tuple[str, ...]) -> frozenset[str] | None:
    """The identifiers an allow-list stands for; None when only the SDK can tell."""
    identifiers: set[str] = set()
    kinds: set[bool] = set()
    for path in allowed:
        if path in (_ALL_CODE, _ALL_DATA):
            for_code = path == _ALL_CODE
            if for_code in kinds:
                return None
            kinds.add(for_code)
            identifiers.update(i for i, code in _STRATEGIES.values() if code is for_code)
        elif path in _KNOWN_PATHS:
            identifier, for_code = _KNOWN_PATHS[path]
            kinds.add(for_code)
            identifiers.add(identifier)
        else:
            return None
    mixed = {_ALL_CODE: True, _ALL_DATA: False}
    for path in allowed:
        if path in mixed and any(
            _KNOWN_PATHS[other][1] is mixed[path] for other in allowed if other in _KNOWN_PATHS
        ):
            return None
    return frozenset(identifiers) if len(kinds) == 2 else None


def _sdk_load(buffer: str, allowed: tuple[str, ...] | None) -> Any:
    from globus_compute_sdk.serialize import ComputeSerializer

    return ComputeSerializer(allowed_deserializer_types=allowed or None).deserialize(buffer)


def _sdk_dump(value: Any, strategies: Sequence[str]) -> str:
    from globus_compute_sdk.serialize import ComputeSerializer

    # It logs the value itself when all strategies fail; payloads do not belong in logs.
    logging.getLogger("globus_compute_sdk.serialize.facade").disabled = True
    return str(ComputeSerializer.serialize_from_list(value, list(strategies)))


# -- reading ---------------------------------------------------------------------------------


class _NotPlain(Exception):
    """An object that the C pickler alone would not read or write as dill does."""


def _payload(buffer: str) -> bytes:
    text = buffer[buffers.IDENTIFIER_LENGTH :]
    if len(text) > lines.LARGE and (data := lines.decode(text)) is not None:
        return data
    padding = text.find("=")
    if padding < 0 or padding >= len(text) - _LONGEST_END:
        try:
            return base64.b64decode(text)
        except ValueError:
            pass
    # What is said of a broken payload, or taken in spite of all, shall be as with the SDK.
    return binascii.a2b_base64(text.encode())


def _load_dill(buffer: str) -> Any:
    return functions.read(buffer, _payload)


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, text, bytes and built-in containers; anything that needs a name is refused.

    Most arguments are such, and for them it does in C what dill does in Python.
    """

    def find_class(self, _module: str, _name: str) -> NoReturn:
        raise _NotPlain


def _load_data(buffer: str) -> Any:
    if len(buffer) <= _LONGEST_EMPTY and buffer in _EMPTY:
        return _EMPTY[buffer]()
    data = _payload(buffer)
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception:
        # An error, if it is one and not only an unknown name, shall be dill's own.
        return dill.loads(data)


# What no arguments and no keyword arguments look like; most tasks have one of them.
_EMPTY: dict[str, type] = {
    buffers.DILL_DATA + binascii.b2a_base64(pickle.dumps(kind(), protocol)).decode("ascii"): kind
    for kind in (tuple, dict)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
}

_LONGEST_EMPTY = max(map(len, _EMPTY))


def _load_pickle(buffer: str) -> Any:
    return pickle.loads(_payload(buffer))


def _load_json(buffer: str) -> Any:
    return json.loads(buffer[buffers.IDENTIFIER_LENGTH :])


def _load_pickled_source(buffer: str) -> Any:
    name, source = dill.loads(_payload(buffer))
    return functions.from_source(name, source)


def _load_source(buffer: str) -> Any:
    name, separator, source = buffer[buffers.IDENTIFIER_LENGTH :].partition(":")
    if not separator:
        raise ValueError("A function sent as source has no ':' between its name and its text.")
    return functions.from_source(name, source)


def _load_first(buffer: str) -> Any:
    """One of several packed buffers; the SDK repeats the attempt to say what failed."""
    try:
        parts = buffers.unpack_buffers(buffer[buffers.IDENTIFIER_LENGTH :])
    except ValueError:
        parts = []
    for part in parts:
        reader = _READERS.get(part[: buffers.IDENTIFIER_LENGTH])
        if reader is None:
            continue
        try:
            return reader(part)
        except Exception:
            continue
    return _sdk_load(buffer, None)


_READERS: dict[str, Callable[[str], Any]] = {
    buffers.DILL_DATA: _load_data,
    buffers.DILL_CODE: _load_dill,
    buffers.JSON_DATA: _load_json,
    buffers.PICKLE_CODE: _load_pickle,
    buffers.TEXT_INSPECT_CODE: _load_pickled_source,
    buffers.DILL_SOURCE_CODE: _load_pickled_source,
    buffers.PURE_TEXT_INSPECT_CODE: _load_source,
    buffers.PURE_DILL_SOURCE_CODE: _load_source,
    buffers.ALL_CODE: _load_first,
    buffers.ALL_DATA: _load_first,
}


# -- writing ---------------------------------------------------------------------------------


class _PlainPickler(pickle.Pickler):
    """Writes numbers, text, bytes and the built-in containers of them, and nothing else.

    For these its bytes are those of dill, whose pickler is written in Python and many times
    slower. Everything else comes to `reducer_override` first, and goes to dill.
    """

    def reducer_override(self, _obj: Any) -> NoReturn:
        raise _NotPlain


def _pickled(value: Any) -> bytes:
    stream = io.BytesIO()
    try:
        _PlainPickler(stream, dill.settings["protocol"]).dump(value)
    except (_NotPlain, RecursionError):
        return bytes(dill.dumps(value))
    return stream.getvalue()


def _base64(data: bytes) -> str:
    return base64.encodebytes(data).decode("ascii")


def _dump_dill_data(value: Any) -> str | Written:
    if value is None:  # the most frequent result, and always the same
        return _none()
    pickled = _pickled(value)
    if len(pickled) > lines.LARGE:
        return lines.written(buffers.DILL_DATA, pickled)
    return buffers.DILL_DATA + _base64(pickled)


@functools.cache
def _none() -> str:
    return buffers.DILL_DATA + _base64(_pickled(None))


def _dump_dill_code(value: Any) -> str:
    return buffers.DILL_CODE + _base64(dill.dumps(value))


def _dump_json(value: Any) -> str:
    return buffers.JSON_DATA + json.dumps(value)


_WRITERS: dict[str, Callable[[Any], str | Written]] = {
    buffers.DILL_DATA: _dump_dill_data,
    buffers.DILL_CODE: _dump_dill_code,
    buffers.JSON_DATA: _dump_json,
}
