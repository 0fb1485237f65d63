"""The answer of `apply`: one outcome for each endpoint, as JSON and as lines for people.

`output.schema.json` says what each name means. Everything that is told passes the masking of
secrets here, whatever has already been masked before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cep.apply.document import WrongDocument
from cep.apply.plan import Plan
from cep.errors import CepError
from cep.safety.text import printable, redact

VERSION = 1


@dataclass(slots=True)
class Outcome:
    """What became of one endpoint.

    Attributes:
        name: Its name.
        account: Whose it is.
        directory: Where it is; empty when that is not known.
        plan: What was to be done.
        home: How it stands, as `home.look` and `home.state` say.
        units: Its units.
        error: Why it failed.
        actions: What was done, or would be.
        notes: Sentences for people.
        planned: Something was to be done for it; else it was only looked at.
    """

    name: str
    account: str
    directory: str
    plan: Plan
    home: dict[str, Any]
    units: Sequence[Mapping[str, Any]] = ()
    error: CepError | None = None
    actions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    planned: bool = True

    def begin(self) -> None:
        """From now on `actions` are those that were done."""
        self.actions = []

    def take(self, actions: Iterable[str], answer: Mapping[str, Any]) -> None:
        """A step was carried out."""
        self.actions += actions
        self.notes += answer.get("notes", ())
        if answer.get("restart_needed"):
            self.plan.restart_needed = True

    def only_looked(self) -> None:
        """Nothing was planned for it."""
        failed = self.plan.error
        self.plan = Plan(error=failed, restart_needed=bool(self.home.get("due")))
        self.actions = []
        self.planned = False

    def as_json(self) -> dict[str, Any]:
        """The outcome by the names of the schema."""
        home, plan = self.home, self.plan
        done = self.error is None
        return {
            "name": self.name,
            "run_as": self.account,
            "directory": self.directory,
            "changed": bool(self.actions),
            "actions": list(self.actions),
            "diff": [dict(one) for one in plan.diff] if self.actions else [],
            "endpoint_id": home.get("endpoint_id"),
            "state": home.get("state", "Absent"),
            "paused": bool(home.get("paused")),
            "profile": home.get("profile"),
            "site": home.get("site"),
            "service": home.get("service"),
            "unit": self._unit(),
            "agent": home.get("agent"),
            "waiting": plan.waiting,
            "restarted": plan.restarted and done,
            "reloaded": plan.reloaded and done,
            "restart_needed": plan.restart_needed,
            "notes": [_safe(note) for note in (*home.get("notes", ()), *plan.notes, *self.notes)],
            "error": None if self.error is None else error_json(self.error),
        }

    def _unit(self) -> dict[str, Any] | None:
        for unit in self.units:
            return {
                "name": unit["name"],
                "scope": "user" if unit["user"] else "system",
                "enabled": unit["enabled"],
                "state": unit["state"],
            }
        return None

    def _standing(self, told: Mapping[str, Any]) -> str:
        facts = [told["state"], str(told["endpoint_id"])]
        if told["agent"] is not None and told["agent"]["summary"]:
            facts.append(told["agent"]["summary"])
        if told["unit"] is not None:
            enabled = "enabled" if told["unit"]["enabled"] else "disabled"
            facts.append(f"{told['unit']['name']} ({enabled}, {told['unit']['state']})")
        return f"{self.name}: {'; '.join(facts)}"

    def lines(self) -> list[str]:
        """For people, one fact a line."""
        told = self.as_json()
        if not self.planned:
            return [printable(self._standing(told))]
        words = [word.replace("_", " ") for word in told["actions"]]
        words += ["failed"] if self.error is not None else []
        lines = [f"{self.name}: {', '.join(words) or 'unchanged'}"]
        lines += [f"  {note}" for note in told["notes"]]
        if told["waiting"]:
            lines.append(f"  {told['waiting']}")
        if told["restart_needed"]:
            lines.append("  it goes on with what held before; restart it when it suits")
        return [printable(line) for line in lines]


def answer(outcomes: Sequence[Outcome], *, dry_run: bool) -> dict[str, Any]:
    """The whole answer."""
    told = [one.as_json() for one in outcomes]
    return {
        "schema": VERSION,
        "dry_run": dry_run,
        "ok": all(one["error"] is None for one in told),
        "changed": any(one["changed"] for one in told),
        "error": None,
        "problems": [],
        "endpoints": told,
    }


def refusal(error: CepError, *, dry_run: bool) -> dict[str, Any]:
    """The answer when nothing was done."""
    found = error.problems if isinstance(error, WrongDocument) else []
    problems = [
        {"endpoint": name, "where": one.where, "sentence": _safe(one.sentence)}
        for name, one in found
    ]
    return {
        "schema": VERSION,
        "dry_run": dry_run,
        "ok": False,
        "changed": False,
        "error": error_json(error),
        "problems": problems,
        "endpoints": [],
    }


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0, or the code of the first endpoint that failed."""
    return next((one.error.exit_code for one in outcomes if one.error is not None), 0)


def error_json(error: CepError) -> dict[str, Any]:
    """An error by the names of the schema."""
    hint = None if error.hint is None else _safe(error.hint)
    return {"code": error.exit_code, "sentence": _safe(error.message), "hint": hint}


def _safe(text: str) -> str:
    return printable(redact(text), keep="\n\t")
