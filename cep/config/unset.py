"""The mark of a value that the user still has to write: no endpoint starts while one is left.

`configure --site` writes it where only the user knows the value (an account, a queue); checking
the file refuses it, with the line to edit.
"""

from __future__ import annotations

import re
from typing import Any

_MARK = re.compile(r"<SET ([A-Za-z_][A-Za-z0-9_]*)>")


def placeholder(name: str) -> str:
    """What stands in the file for the variable `name`."""
    return f"<SET {name}>"


def unset_name(value: Any) -> str | None:
    """The variable that a value is the placeholder of; None when it is none."""
    found = _MARK.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else found[1]


def refusal(name: str) -> str:
    """What to say about it, after the line and the key."""
    return (
        f"is not set yet: write your {name.replace('_', ' ')} on this line, or run "
        f"`cep configure NAME --update --set {name}=VALUE`"
    )
