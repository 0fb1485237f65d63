"""Functions by value: read once with dill or compiled once, and made anew for each task.

Most tasks of a run carry the same function, and reading it is half of what a worker does for a
tiny one. Yet a task must not see what another left in its function: each gets its own globals,
defaults and attributes, as if its payload had been read for it alone. So parts of a function are
kept only if nobody can change them (bytecode, numbers, text, tuples of such) and its payload holds
nothing else. What asks for more than dill's own makers of functions is read by dill each time.

Runs in workers, in the thread that runs the task; threads may call it side by side.
"""

from __future__ import annotations

import builtins
import functools
import io
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import dill

_LONGEST = 32 * 1024  # characters of a payload that is kept; with `_MOST`, 2 MiB of text in all
_MOST = 64  # payloads; a workflow has a handful of functions
_LEAVES = frozenset((type(None), type(...), bool, int, float, complex, str, bytes))
_CODE = ("co_consts", "co_names", "co_varnames", "co_freevars", "co_cellvars")
_ATTRIBUTES = ("__name__", "__qualname__", "__module__", "__doc__")
_NEWER = ("__type_params__", "__annotate__")  # of Python 3.12 and 3.14
# What dill 0.3.9 and later ask for by name when they read a function that is kept.
_MAIN = ("__builtin__", "__main__")  # the globals of `__main__`
_LOAD_TYPE = ("dill._dill", "_load_type")
_ASKED = frozenset(
    (
        ("dill._dill", "_create_function"),
        ("dill._dill", "_create_code"),
        ("builtins", "__dict__"),
        _LOAD_TYPE,
        _MAIN,
    )
)
_TYPES = frozenset(
    one.__name__
    for one in (bool, bytes, complex, dict, float, frozenset, int, list, object, set, str, tuple)
)


def read(buffer: str, payload: Callable[[str], bytes]) -> Any:
    """Rebuild a function, or whatever else the buffer holds.

    Args:
        buffer: Identifier and payload; equal ones hold the same pickle.
        payload: Returns the pickle that a buffer holds.

    Raises:
        Exception: Whatever reading the pickle raises.
    """
    parts = _kept.get(buffer)
    if parts is not None:
        return parts.function()
    pickled = payload(buffer)
    value = dill.loads(pickled)
    if len(buffer) <= _LONGEST:
        _met(buffer, pickled)
    return value


def from_source(name: str, source: str) -> Any:
    """Run a function's source in a namespace of its own, and return what it calls `name`.

    Raises:
        Exception: Whatever the source raises; `KeyError` when it does not define the name.
    """
    namespace: dict[str, Any] = {}
    exec(_compiled(source) if len(source) <= _LONGEST else source, namespace)
    return namespace[name]


@functools.lru_cache(maxsize=_MOST)
def _compiled(source: str) -> types.CodeType:
    return compile(source, "<string>", "exec")


# -- parts of functions ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a function is made of; what could be changed is copied for each.

    Attributes:
        code: Its bytecode.
        main: The globals of `__main__`, which its functions share wherever they are read.
        brought: The globals that it brought along, when it does not live in `__main__`.
        itself: The names by which these globals know the function itself.
        defaults: Of positional parameters.
        keywords: Defaults of keyword-only parameters.
        annotations: Of parameters and result.
        extra: The attributes that its author gave it.
        attributes: Name, documentation and the like, where Python alone would give others.
    """

    code: types.CodeType
    main: dict[str, Any] | None
    brought: dict[str, Any]
    itself: tuple[str, ...]
    defaults: tuple[Any, ...] | None
    keywords: dict[str, Any] | None
    annotations: dict[str, Any]
    extra: dict[str, Any]
    attributes: tuple[tuple[str, Any], ...]

    def function(self) -> types.FunctionType:
        """A function that shares with others only what cannot change, and `__main__`."""
        space = self.brought.copy() if self.main is None else self.main
        made = types.FunctionType(self.code, space, None, self.defaults)
        for name in self.itself:
            space[name] = made
        if self.keywords is not None:
            made.__kwdefaults__ = self.keywords.copy()
        if self.annotations:
            made.__annotations__ = self.annotations.copy()
        if self.extra:
            made.__dict__.update(self.extra)
        for name, value in self.attributes:
            setattr(made, name, value)
        return made


_kept: dict[str, _Parts] = {}
_met_once: set[int] = set()
_never: set[int] = set()  # met twice, and not kept
_lock = threading.Lock()  # of the three above; a look at what is kept needs none


def _met(buffer: str, pickled: bytes) -> None:
    """Keep the parts of a function that comes again, if they can be kept."""
    mark = hash(buffer)
    if mark in _never:
        return
    with _lock:
        if mark not in _met_once:  # many functions never come again
            if len(_met_once) >= _MOST * 16:
                _met_once.clear()
                _never.clear()
            _met_once.add(mark)
            return
        parts = _parts(pickled)
        if parts is None:
            _never.add(mark)
            return
        while len(_kept) >= _MOST:
            del _kept[next(iter(_kept))]
        _kept[buffer] = parts


class _NotKept(Exception):
    """The pickle asks for something that could have an effect, or be changed."""


class _Reader(dill.Unpickler):  # type: ignore[misc]
    """Reads as dill does, but stops at the first name that is not known to be harmless."""

    main: object = None

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ASKED:
            raise _NotKept
        found = super().find_class(module, name)
        if (module, name) == _MAIN:
            self.main = found
        return functools.partial(_known_type, found) if (module, name) == _LOAD_TYPE else found


def _known_type(load_type: Callable[[str], Any], name: str) -> Any:
    if name not in _TYPES:
        raise _NotKept
    return load_type(name)


def _parts(pickled: bytes) -> _Parts | None:
    """The parts of a function; None for all else, and when anything of it could change."""
    reader = _Reader(io.BytesIO(pickled))
    try:
        value = reader.load()
    except Exception:  # dill itself could read it
        return None
    if type(value) is not types.FunctionType or value.__closure__ is not None:
        return None
    if any(getattr(value, name, None) for name in _NEWER):
        return None
    space = value.__globals__
    brought = {} if space is reader.main else space
    itself = tuple(name for name, one in brought.items() if one is value)
    parts = _Parts(
        code=value.__code__,
        main=space if space is reader.main else None,
        brought={name: one for name, one in brought.items() if one is not value},
        itself=itself,
        defaults=value.__defaults__,
        keywords=value.__kwdefaults__,
        annotations=value.__annotations__,
        extra=value.__dict__,
        attributes=(),
    )
    told = {name: getattr(value, name) for name in _ATTRIBUTES}
    if not (_cannot_change(parts) and all(map(_is_constant, told.values()))):
        return None
    by_itself = parts.function()
    differing = ((name, one) for name, one in told.items() if getattr(by_itself, name) != one)
    return replace(parts, attributes=tuple(differing))


def _cannot_change(parts: _Parts) -> bool:
    brought = {k: v for k, v in parts.brought.items() if v is not builtins.__dict__}
    tables = (brought, parts.keywords or {}, parts.extra, parts.annotations)
    return (
        _is_constant(parts.code)
        and _is_constant(parts.defaults)
        and all(_is_constant(k) for table in tables for k in table)
        and all(_is_constant(v) for table in tables[:-1] for v in table.values())
        and all(type(v) is type or _is_constant(v) for v in parts.annotations.values())
    )


def _is_constant(value: object) -> bool:
    """Whether neither it nor anything within can be changed; of exact types only."""
    kind = type(value)
    if kind in _LEAVES:
        return True
    if kind is tuple or kind is frozenset:
        return all(map(_is_constant, value))  # type: ignore[call-overload]
    return kind is types.CodeType and all(_is_constant(getattr(value, n)) for n in _CODE)
