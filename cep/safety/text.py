"""Words for terminals, logs and audit lines: no control characters, no secrets.

Names, messages and tracebacks come from other people's machines. A terminal obeys the escape
sequences in what it shows, and a line break in a name would forge a line of the log. Pure
functions but for the secrets that were told to `hide`; from any thread.
"""

from __future__ import annotations

import re

# What must never be written: passwords in URLs, bearer and basic credentials, secrets and tokens
# named as such.
_SECRETS = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@]+@", re.I), r"\1:***@"),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.I), r"\1 ***"),
    (
        re.compile(
            r"((?:client_)?secret|password|passwd|(?:access_|refresh_)?token)"
            r"(['\"]?\s*[:=]\s*['\"]?)[^\s'\",}]+",
            re.I,
        ),
        r"\1\2***",
    ),
)


# Secrets of this process that have no form to be known by; filled once, before threads are started.
_known: list[str] = []
_SHORTEST_KNOWN = 8  # a shorter one would blot out ordinary words


def hide(*secrets: str) -> None:
    """From now on `redact` replaces these texts wherever they stand."""
    _known.extend(one for one in secrets if len(one) >= _SHORTEST_KNOWN and one not in _known)


def redact(text: str) -> str:
    """Return the text with passwords, tokens and secrets replaced by `***`."""
    for secret in _known:
        text = text.replace(secret, "***")
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def printable(text: str, *, keep: str = "") -> str:
    r"""Return the text with everything that a terminal would obey made visible, as `\x1b`.

    That is what Unicode calls control, format (such as the marks that turn the direction of
    writing), surrogate, private and unassigned characters, and line and paragraph separators.

    Args:
        text: From anywhere.
        keep: Characters to let through nevertheless, e.g. line breaks.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _visible(c) for c in text)


def _visible(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
