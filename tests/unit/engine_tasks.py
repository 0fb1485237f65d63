"""Functions that the engine contract runs in workers.

They travel as source, so each imports what it needs, and none refers to anything outside itself.
"""

# Plain `open` and `os` keep what travels short.
# ruff: noqa: PTH123, PTH109, PTH110
from __future__ import annotations

from pathlib import Path
from typing import Any


def add(a, b):
    return a + b


def touch_and_wait(started, gate):
    """Say that the task has begun, then wait for the file `gate` (or for ever)."""
    import os
    import time

    with open(started, "w") as file:
        file.write(str(os.getpid()))
    until = time.monotonic() + 100
    while not os.path.exists(gate) and time.monotonic() < until:
        time.sleep(0.01)
    return os.getpid()


def append_line(path, text):
    with open(path, "a") as file:
        file.write(text + "\n")
    return text


def raise_value_error(text):
    def inner():
        raise ValueError(text)

    inner()


def raise_system_exit():
    import sys

    sys.exit(3)


def raise_keyboard_interrupt():
    raise KeyboardInterrupt


def exit_at_once():
    import os

    os._exit(7)


def surroundings():
    import os
    import subprocess
    import time

    time.sleep(0.05)  # so that tasks on several workers overlap
    return {
        "uuid": os.environ.get("GC_TASK_UUID"),
        "sandbox": os.environ.get("GC_TASK_SANDBOX_DIR"),
        "copied": os.environ.copy().get("GC_TASK_UUID"),
        "child": subprocess.run(
            ["sh", "-c", "echo $GC_TASK_UUID"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "cwd": os.getcwd(),
        "pid": os.getpid(),
        "mark": os.environ.get("CEP_ENDPOINT_DIR"),
    }


def spin(seconds):
    import time

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.005)
    return "not interrupted"


def make_bytes(count):
    return b"x" * count


def print_much(lines):
    import os
    import sys

    for number in range(lines):
        print("line", number, "\0\1\2 payload")
    sys.stdout.flush()
    os.write(1, b"\0" * 4096)
    return lines


def hostile_value(path):
    """A value that writes its reader's pid into `path` when it is unpickled."""

    class Trap:
        def __reduce__(self):
            return (exec, (f"import os; open({path!r}, 'a').write(str(os.getpid()) + ' ')",))

    return Trap()


def raise_hostile(path):
    class Trap:
        def __reduce__(self):
            return (exec, (f"import os; open({path!r}, 'a').write(str(os.getpid()) + ' ')",))

    class Bad(Exception):
        def __str__(self):
            raise RuntimeError("no text")

        def __reduce__(self):
            return (exec, (f"import os; open({path!r}, 'a').write(str(os.getpid()) + ' ')",))

    raise Bad(Trap())


def unpicklable():
    class Refuses:
        def __reduce__(self):
            raise SystemExit("cannot be pickled")

    return Refuses()


class Trap:
    """An argument that writes its reader's pid into a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        pid = "str(__import__('os').getpid())"
        code = f"open({self.path!r}, 'a').write({pid} + ' ')"
        return (eval, (code,))
