"""A note by which it is known whether an agent was started with these credentials of a client.

Credentials of an endpoint without a unit are kept nowhere: they are handed to the agent when it
starts. To restart it when they change, and only then, a salted scrypt digest of them is left in the
endpoint's directory (mode 0600), bound to the very agent by its fencing token.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cep.safety.files import open_private

# As RFC 7914 suggests for interactive use: 16 MiB and some tens of milliseconds.
_COST: dict[str, Any] = {"n": 2**14, "r": 8, "p": 1, "dklen": 32}


def put(file: Path, token: str, client: Sequence[str] | None) -> None:
    """Note what an agent was started with.

    Args:
        file: Where.
        token: The agent's fencing token.
        client: A client's id and secret; None for none, which leaves no note.
    """
    file.unlink(missing_ok=True)
    if client is None:
        return
    salt = os.urandom(16)
    content = {"token": token, "salt": salt.hex(), "digest": _digest(client, salt).hex()}
    descriptor = open_private(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        json.dump(content, out)


def fits(file: Path, token: str, client: Sequence[str]) -> bool:
    """Whether that agent was started with these; arguments as `put`."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        noted, salt = bytes.fromhex(found["digest"]), bytes.fromhex(found["salt"])
        same = hmac.compare_digest(_digest(client, salt), noted)
        return bool(found["token"] == token) and same
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _digest(client: Sequence[str], salt: bytes) -> bytes:
    return hashlib.scrypt("\n".join(client).encode(), salt=salt, **_COST)
