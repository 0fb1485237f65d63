"""Programs first on PATH in the place of a scheduler's: they print what they are told."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest


class Programs:
    """See the module; each also writes down how it was called.

    Args:
        directory: Where they are, first on PATH.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def answer(self, program: str, text: str = "", *, code: int = 0, errors: str = "") -> None:
        """Let a program print this from now on."""
        (self.directory / f"{program}.out").write_text(text)
        (self.directory / f"{program}.err").write_text(errors)
        file = self.directory / program
        quoted = shlex.quote(str(file))
        file.write_text(
            f'#!/bin/sh\necho "$@" >> {quoted}.calls\ncat {quoted}.out\ncat {quoted}.err >&2\n'
            f"exit {code}\n"
        )
        file.chmod(0o755)

    def hang(self, program: str) -> None:
        """Let a program never answer."""
        file = self.directory / program
        file.write_text("#!/bin/sh\nexec sleep 60\n")
        file.chmod(0o755)

    def calls(self, program: str) -> list[str]:
        """The arguments of each call so far."""
        file = self.directory / f"{program}.calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """No program yet; `/usr/bin` and `/bin` come after them."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return Programs(directory)
