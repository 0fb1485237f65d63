"""Hide what looks like a secret in a text that is shown to people. Pure."""

from __future__ import annotations

import re

MASK = "****"
_NAMES = (
    r"[A-Za-z0-9_.-]*(?:token|secret|passw(?:or)?d|passphrase|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|credentials?|auth)[A-Za-z0-9_]*"
)
_ASSIGNMENT = re.compile(
    rf"(?i)\b({_NAMES})(\s*[=:]\s*|\s+(?=['\"]))('[^'\n]*'|\"(?:[^\"\\\n]|\\.)*\"|[^\s'\";,&|]+)"
)
_OPTION = re.compile(rf"(?i)(--?{_NAMES}[ =])('[^'\n]*'|\"[^\"\n]*\"|[^\s'\"]+)")
_URL = re.compile(r"([a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@/]+@", re.IGNORECASE)
_BEARER = re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{8,}")
#: Keys whose names look like one of those and that hold no secret.
_HARMLESS = frozenset({"authentication_policy", "cert_dir"})


def mask(text: str) -> str:
    """Return the text with values of secret names, URL passwords and bearer tokens hidden."""

    def assignment(match: re.Match[str]) -> str:
        if match[1].lower() in _HARMLESS:
            return match[0]
        return f"{match[1]}{match[2]}{MASK}"

    text = _URL.sub(rf"\1:{MASK}@", text)
    text = _BEARER.sub(rf"\1\2{MASK}", text)
    text = _OPTION.sub(rf"\1{MASK}", text)
    return _ASSIGNMENT.sub(assignment, text)
