"""When Python looks for objects that hold only each other."""

from __future__ import annotations

import gc


def do_not_look_while_loading() -> None:
    """Look for no cycles while the program loads: what it loads stays, and hardly any is in one.

    Python looks after each 700 new objects, again and again at the same ones; of what an agent
    loads that is an eighth of the time. Memory only grows until `look_again`.
    """
    gc.disable()


def look_again() -> None:
    """What is here now stays, and is not looked at again; what comes is looked at as ever.

    Without effect unless `do_not_look_while_loading` was called.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
