"""Which versions a worker has, and whether a function was made by another Python.

A function that travels as bytecode works in the minor version of Python that made it; elsewhere it
may end the process without a word. A task does not tell its client's version, but bytecode of
another version often gives itself away. Standard library only, besides what is asked for by name;
called in the thread that runs the task.
"""

from __future__ import annotations

import functools
import opcode
import platform
import sys
import types
from collections.abc import Sequence
from importlib import metadata

#: What is told and compared, in this order.
NAMES = ("Python", "dill", "parsl", "cep-endpoint", "globus-compute-sdk")
_DEEPEST = 20  # functions within functions
#: What may stand before RESUME, which is in each function since 3.11. Source: CPython, compile.c.
_BEFORE = bytes(
    opcode.opmap[name]
    for name in ("COPY_FREE_VARS", "MAKE_CELL", "NOP", "POP_TOP", "RETURN_GENERATOR")
    if name in opcode.opmap
)
_RESUME = bytes([opcode.opmap["RESUME"]]) if "RESUME" in opcode.opmap else None
_KNOWN = bytes(one for one in range(256) if not opcode.opname[one].startswith("<"))


class ForeignFunction(Exception):
    """The function's bytecode is of another Python than the worker's."""


@functools.cache
def own() -> tuple[tuple[str, str], ...]:
    """Name and version of each of `NAMES` that is here."""
    found = [("Python", platform.python_version())]
    for name in NAMES[1:]:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)


def told(versions: Sequence[tuple[str, str]]) -> str:
    """The versions as a phrase."""
    return ", ".join(f"{name} {version}" for name, version in versions)


def differences(here: Sequence[tuple[str, str]], there: Sequence[tuple[str, str]]) -> list[str]:
    """The names of what both have in different versions; of Python the minor version counts."""
    others = dict(there)
    return [
        name
        for name, version in here
        if name in others and _counts(name, version) != _counts(name, others[name])
    ]


def _counts(name: str, version: str) -> str:
    return ".".join(version.split(".")[:2]) if name == "Python" else version


def note(endpoint: Sequence[tuple[str, str]]) -> str:
    """For the failure of a task that could not be unpacked: who has which versions.

    Args:
        endpoint: The endpoint's versions; may be empty.
    """
    here = own()
    lines = [f"The worker that could not unpack the task has {told(here)}, in {sys.prefix}."]
    if endpoint:
        differ = differences(here, endpoint)
        lines.append(
            f"The endpoint has {told(endpoint)}"
            + (f": they differ in {', '.join(differ)}." if differ else ".")
        )
    lines.append(
        "A task does not tell the versions of its client; Python's minor version and dill there "
        "should be those of the worker."
    )
    return "\n".join(lines)


def check_function(function: object) -> None:
    """Refuse a function whose bytecode cannot be this Python's, before it is run.

    Bytecode that passes may still be another version's: not all of it can be told.

    Raises:
        ForeignFunction: It is another's; the text is for the user.
    """
    if isinstance(function, types.FunctionType) and is_foreign(function.__code__):
        here = own()
        raise ForeignFunction(
            f"The function {function.__name__} was made by another version of Python than the "
            f"worker's, which has {told(here)}. Its bytecode cannot run there. Use the worker's "
            f"Python {'.'.join(here[0][1].split('.')[:2])} at the client, or an environment with "
            "the client's Python for the tasks (worker_init), or send the function as source: "
            "Executor(serializer=ComputeSerializer(strategy_code=PureSourceTextInspect()))."
        )


def is_foreign(code: types.CodeType, depth: int = 0) -> bool:
    """Whether the bytecode, or that of a function within, cannot be of this Python."""
    operations = code.co_code[::2]  # each is followed by its argument, since 3.6
    if operations.translate(None, _KNOWN) or not _resumes(operations):
        return True
    if depth < _DEEPEST:
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType) and is_foreign(inner, depth + 1):
                return True
    return False


def _resumes(operations: bytes) -> bool:
    if _RESUME is None:  # 3.10 has none
        return True
    return operations.lstrip(_BEFORE)[:1] == _RESUME
