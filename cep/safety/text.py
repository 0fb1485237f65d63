"""Words for terminals, logs and audit lines: no control characters, no secrets.

Names, messages and tracebacks come from other people's machines. A terminal obeys the escape
sequences in what it shows, and a line break in a name would forge a line of the log. Scripts are
shown to people too, who paste them into tickets. Pure functions but for the secrets that were told
to `hide`; from any thread.
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


# Names that scripts and options of programs give to secrets; too many for messages and logs, where
# a sentence with `auth: ` or `credentials = ` in it tells no secret.
_NAMES = (
    r"[A-Za-z0-9_.-]*(?:token|secret|passw(?:or)?d|passphrase|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|credentials?|auth)[A-Za-z0-9_]*"
)
_OPTION = re.compile(rf"(?i)(--?{_NAMES}[ =])('[^'\n]*'|\"[^\"\n]*\"|[^\s'\"]+)")
_ASSIGNMENT = re.compile(
    rf"(?i)\b({_NAMES})(\s*[=:]\s*|\s+(?=['\"]))"
    r"('[^'\n]*'|\"(?:[^\"\\\n]|\\.)*\"|[^\s'\",;&|]+)"
)
#: Names that look like one of those and hold no secret.
_HARMLESS = frozenset({"authentication_policy", "cert_dir"})

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


def redact_script(text: str) -> str:
    """As `redact`, and with what scripts, commands and configurations give to secret names.

    Args:
        text: Something that a shell or YAML reads; quoted values go as a whole.
    """

    def assignment(match: re.Match[str]) -> str:
        return match[0] if match[1].lower() in _HARMLESS else f"{match[1]}{match[2]}***"

    return _ASSIGNMENT.sub(assignment, _OPTION.sub(r"\1***", redact(text)))


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
