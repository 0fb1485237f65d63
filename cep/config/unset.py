"""The mark of a value that the user still has to write: no endpoint starts while one is left.

`configure --site` writes it where only the user knows the value (an account, a queue), `import`
where an older configuration does not tell it; checking the file refuses it, with the line to edit.
"""

from __future__ import annotations

import re
from typing import Any

_MARK = re.compile(r"<SET ([A-Za-z_][A-Za-z0-9_]*)(?:: (.+))?>")
_LONGEST = 120  # characters of what is told in a mark


def placeholder(name: str, told: str | None = None) -> str:
    """What stands in the file for the variable `name`.

    Args:
        name: The variable or key.
        told: What is known of the value, in a few words.
    """
    if told is None:
        return f"<SET {name}>"
    short = " ".join(told.split())
    return f"<SET {name}: {short if len(short) <= _LONGEST else short[: _LONGEST - 3] + '...'}>"


def unset_name(value: Any) -> str | None:
    """The variable that a value is the placeholder of; None when it is none."""
    found = _MARK.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else found[1]


def refusal(mark: str) -> str:
    """What to say about a placeholder, after the line and the key."""
    found = _MARK.fullmatch(mark)
    assert found is not None
    name, told = found[1], found[2]
    words = name.replace("_", " ")
    if told is not None:
        return f"is not set yet: write your {words} on this line ({told})"
    return (
        f"is not set yet: write your {words} on this line, or run "
        f"`cep configure NAME --update --set {name}=VALUE`"
    )
