"""Wait for an account's own service manager to come up, which takes a moment after `enable-linger`.

Its socket appears in directories that appear one after the other; the kernel tells of each
(inotify(7)), so nothing is asked again and again.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import time
from pathlib import Path

_CREATE, _MOVED_TO, _ATTRIBUTES = 0x100, 0x80, 0x4  # of inotify(7)


def wait_for(runtime: Path, within_s: float) -> bool:
    """Wait until the manager below `runtime` takes connections; whether it does.

    Args:
        runtime: The account's runtime directory, as `/run/user/1000`.
        within_s: Seconds to wait at most.
    """
    place = runtime / "systemd" / "private"  # where systemctl --user looks first
    until = time.monotonic() + within_s
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if watch < 0:
        return _takes_connections(place)
    try:
        events = select.poll()
        events.register(watch, select.POLLIN)
        while True:
            # The outermost first: one that is not there yet when its turn comes will be told of.
            for folder in (runtime.parent.parent, runtime.parent, runtime, place.parent):
                libc.inotify_add_watch(
                    watch, os.fsencode(folder), _CREATE | _MOVED_TO | _ATTRIBUTES
                )
            if _takes_connections(place):  # after the watches: nothing is missed in between
                return True
            left_s = until - time.monotonic()
            if left_s <= 0 or not events.poll(left_s * 1000):
                return False
            os.read(watch, 64 * 1024)
    finally:
        os.close(watch)


def _takes_connections(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(place))
        except OSError:
            return False
    return True
