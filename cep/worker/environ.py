"""A view of `os.environ` in which each task thread sees its own GC_TASK_* variables.

Environment and working directory belong to a process; threads that run tasks side by side would
see each other's. While a view is installed, `os.environ` looks the two variables up in the
running thread first (`os.getenv`, `os.environ.copy()` and `from os import environ` included), and
`subprocess.Popen` without an `env` passes on what the thread sees. All other variables stay
shared, as threads share them. Threads that a task starts by itself see no task variables.

Each worker thread also asks Linux for a working directory of its own, which needs no privilege;
where the kernel or a container's rules refuse, tasks in threads do not change directory at all.

`install` and `uninstall` belong to the engine's owner; the other functions to the task's thread.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

TASK_UUID = "GC_TASK_UUID"
SANDBOX_DIR = "GC_TASK_SANDBOX_DIR"
_OWN = frozenset((TASK_UUID, SANDBOX_DIR))
_CLONE_FS = 0x00000200  # source: linux/sched.h

_Environ = type(os.environ)
_ENV_POSITION = 10  # of `env` among Popen's positional arguments, without self
_install_lock = threading.Lock()


_ROOM = 4096  # bytes of the longest path (linux/limits.h)
# As os.getcwd, but without letting go of the interpreter (PyDLL): the kernel answers from memory.
# It is given values of C's own types, which is twice as fast as to declare them (`argtypes`).
_getcwd = ctypes.PyDLL(None).getcwd
_getcwd.restype = ctypes.c_void_p
_ROOM_SIZE = ctypes.c_size_t(_ROOM)


# As setenv, but the text is ours: glibc keeps each one that setenv was ever given, since it cannot
# know who still looks at it, and a worker would grow by 90 bytes with each task.
_putenv = ctypes.PyDLL(None).putenv
_putenv.argtypes = (ctypes.c_void_p,)


class _Variable:
    """An environment variable that is another for each task of a process.

    Args:
        name: Its name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._key = os.fsencode(name)
        self._room = ctypes.create_string_buffer(len(self._key) + 1 + _ROOM)
        # The C library may look at it until the very end of the process.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._room))

    def set(self, value: str) -> None:
        """Set it, for this process and those that it starts."""
        text = os.fsencode(value)
        data = getattr(os.environ, "_data", None)  # what it tells from; a task may have replaced it
        if data is None or len(text) >= _ROOM or b"\0" in text:
            os.environ[self._name] = value  # or the error that is due
            return
        self._room.value = b"%b=%b" % (self._key, text)
        _putenv(ctypes.addressof(self._room))  # each time: a task may have put another there
        data[self._key] = text

    def may_be_there(self) -> bool:
        """False when it surely is not set; to ask `os.environ` itself is to raise an error."""
        data = getattr(os.environ, "_data", None)
        return data is None or self._key in data


_task_uuid = _Variable(TASK_UUID)
_sandbox_dir = _Variable(SANDBOX_DIR)


class _Local(threading.local):
    def __init__(self) -> None:
        self.room = ctypes.create_string_buffer(_ROOM)

    variables: dict[str, str] | None = None
    private_directory: bool = False


_local = _Local()


class _TaskEnviron(_Environ):  # type: ignore[valid-type,misc]
    """`os.environ`, with this thread's task variables in front while it runs a task."""

    def __getitem__(self, key: str) -> str:
        own = _local.variables
        if own is not None and key in _OWN:
            return own[key]
        return super().__getitem__(key)  # type: ignore[no-any-return]

    def __setitem__(self, key: str, value: str) -> None:
        own = _local.variables
        if own is not None and key in _OWN:
            own[key] = value
        else:
            super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        own = _local.variables
        if own is not None and key in _OWN:
            del own[key]
        else:
            super().__delitem__(key)

    def __iter__(self) -> Iterator[str]:
        own = _local.variables
        if own is None:
            yield from super().__iter__()
            return
        yield from own.copy()
        for key in super().__iter__():
            if key not in _OWN:
                yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Installed:
    count = 0
    popen_init: Callable[..., None] | None = None


def install() -> None:
    """Put the view in place; each call needs one `uninstall`."""
    with _install_lock:
        _Installed.count += 1
        if _Installed.count > 1:
            return
        original = subprocess.Popen.__init__
        _Installed.popen_init = original

        @functools.wraps(original)
        def with_task_variables(self: Any, *args: Any, **kwargs: Any) -> None:
            if (
                _local.variables is not None
                and len(args) <= _ENV_POSITION
                and kwargs.get("env") is None
            ):
                kwargs["env"] = os.environ.copy()
            original(self, *args, **kwargs)

        os.environ.__class__ = _TaskEnviron
        subprocess.Popen.__init__ = with_task_variables  # type: ignore[method-assign]


def uninstall() -> None:
    """Take the view away again, unless another owner still needs it."""
    with _install_lock:
        _Installed.count -= 1
        if _Installed.count > 0 or _Installed.popen_init is None:
            return
        os.environ.__class__ = _Environ
        subprocess.Popen.__init__ = _Installed.popen_init  # type: ignore[method-assign]
        _Installed.popen_init = None


def look_up(name: str, key: bytes) -> str:
    """As `os.environ.get(name, "")` for a variable that is no task's own, at a tenth of the cost.

    Args:
        name: Its name.
        key: The same, encoded.
    """
    data = getattr(os.environ, "_data", None)  # what it tells from; a task may have replaced it
    if data is None:
        return os.environ.get(name, "")
    value = data.get(key)
    return "" if value is None else os.fsdecode(value)


def set_task(task_id: str, sandbox_dir: str | None, *, in_thread: bool) -> None:
    """Set the task variables for the task that this thread is about to run.

    Args:
        task_id: UUID text.
        sandbox_dir: The sandbox, or None: then the variable is absent.
        in_thread: Only this thread is to see them.
    """
    if in_thread:
        _local.variables = {TASK_UUID: task_id}
        if sandbox_dir is not None:
            _local.variables[SANDBOX_DIR] = sandbox_dir
        return
    _task_uuid.set(task_id)
    if sandbox_dir is None:
        if _sandbox_dir.may_be_there():
            os.environ.pop(SANDBOX_DIR, None)
    else:
        _sandbox_dir.set(sandbox_dir)


def clear_task() -> None:
    """Forget this thread's task variables."""
    _local.variables = None


def own_directory() -> bool:
    """Give this thread a working directory (and umask) of its own, if the kernel allows.

    Returns:
        Whether it has one now; `os.chdir` in this thread then moves no other thread.
    """
    try:
        _local.private_directory = ctypes.CDLL(None).unshare(_CLONE_FS) == 0
    except (OSError, AttributeError):
        _local.private_directory = False
    return _local.private_directory


def is_in(directory: str) -> bool:
    """Whether this thread's working directory is this one, by a path without symbolic links.

    To ask costs as much as to change, but to change is to give way to the other threads of this
    process, and to wait until they give way again.
    """
    room = _local.room
    return _getcwd(room, _ROOM_SIZE) is not None and room.value == _path_bytes(directory)


_path_bytes = functools.lru_cache(maxsize=8)(os.fsencode)  # the same directory for each task


def may_change_directory(in_thread: bool) -> bool:
    """Whether a task run by this thread may change directory without moving others."""
    return not in_thread or _local.private_directory
