"""What reading a foreign configuration brought to light, beside its values. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Unread:
    """A value of a program that only running the program would tell.

    Attributes:
        source: The expression, on one line.
        line: Where it stands (1-based).
        why: What keeps it from being read, to follow "it".
    """

    source: str
    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing to tell about a source.

    Attributes:
        key: Path of the key, or the words of the source it is about.
        line: Where it stands; None when it stands nowhere.
        reason: What is the matter with it, as a sentence.
    """

    key: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        at = "" if self.line is None else f"line {self.line}: "
        return f"{at}{self.key}: {self.reason}"

    def as_json(self) -> dict[str, object]:
        """The remark as `import --json` tells it."""
        return {"key": self.key, "line": self.line, "reason": self.reason}


@dataclass(slots=True)
class Findings:
    """Everything that the new file cannot say by itself.

    Attributes:
        left_out: Keys without an equivalent.
        to_write: Keys whose value the owner has to write; a placeholder holds their place.
        unread: Statements of a program that were passed over.
        notes: Other sentences for people.
    """

    left_out: list[Remark] = field(default_factory=list)
    to_write: list[Remark] = field(default_factory=list)
    unread: list[Remark] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        """Whether the values say everything."""
        return not (self.left_out or self.to_write or self.unread)
