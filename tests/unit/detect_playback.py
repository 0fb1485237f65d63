"""Plays back what a site's commands said, from tests/unit/scheduler_outputs/detect.

Each file tells in `source` where its words come from: recorded (by
`python -m tests.integration.record_detection`), or written by us after a manual.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cep.profiles.detect.commands import Answer

FOLDER = Path(__file__).with_name("scheduler_outputs") / "detect"
USER = "researcher"


class Playback:
    """A site as a file has it. A command that the file does not know fails the test.

    Args:
        commands: Answers by command line: `code`, `out`, `err`; `hangs` in place of them.
        which: Commands that are there.
    """

    def __init__(self, commands: Mapping[str, Any], which: list[str]) -> None:
        self.commands = dict(commands)
        self.there = list(which)
        self.user = USER
        self.asked: list[str] = []

    @classmethod
    def of(cls, *names: str) -> Playback:
        """The site of one file, or of several together."""
        parts = [json.loads((FOLDER / f"{name}.json").read_text()) for name in names]
        commands = {line: said for part in parts for line, said in part["commands"].items()}
        return cls(commands, [name for part in parts for name in part["which"]])

    def which(self, name: str) -> str | None:
        """Where a command is."""
        return f"/usr/bin/{name}" if name in self.there else None

    def ask(self, *argv: str) -> Answer:
        """What a command said."""
        line = shlex.join(argv)
        self.asked.append(line)
        said = self.commands[line]
        if said.get("hangs"):
            return Answer(argv, code=None, trouble=f"{argv[0]} did not answer within 10 s")
        return Answer(argv, said.get("out", ""), said.get("err", ""), said.get("code", 0))
