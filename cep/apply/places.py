"""Where a verb of `apply` is carried out: in this process, or as another account in one of its own.

Root becomes the account for everything in its home (the homes of a cluster refuse root, and a link
planted there must not lead root anywhere): `python -m cep.apply.places` is started with the
account's ids, takes the verbs on its standard input, secrets included, and answers on its standard
output. Nothing is on its command line or in its environment.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from cep.apply import facts
from cep.apply.facts import Account
from cep.config.kinds import FloatText, IntText
from cep.errors import (
    CantCreate,
    CepError,
    NotAllowed,
    SoftwareError,
    TemporaryFailure,
    revived,
    told,
)

log = logging.getLogger(__name__)

Spec: TypeAlias = Mapping[str, Any]
# A start with its `endpoint_setup` may take an hour, and a drain as long as its limit says.
_SLACK_S = 2 * 3600.0


class Place(Protocol):
    """Carries out verbs."""

    def ask(self, verb: str, spec: Spec) -> dict[str, Any]:
        """Carry out one verb.

        Raises:
            CepError: As the verb says.
        """

    def ask_all(self, verb: str, specs: Sequence[Spec]) -> list[dict[str, Any] | CepError]:
        """Carry out one verb for several, each with its own answer or error."""


class Here:
    """In this process."""

    def ask(self, verb: str, spec: Spec) -> dict[str, Any]:
        """As `Place.ask`."""
        try:
            done: dict[str, Any] = function_of(verb)(spec)
        except CepError:
            raise
        except OSError as exc:
            raise CantCreate(f"{verb!r} of endpoint {spec.get('name')} failed: {exc}.") from exc
        except Exception as exc:  # one endpoint's fault must not take the others with it
            log.exception("%s of endpoint %s failed unexpectedly", verb, spec.get("name"))
            raise SoftwareError(
                f"{verb!r} of endpoint {spec.get('name')} met a fault in cep: {exc!r}."
            ) from exc
        return done

    def ask_all(self, verb: str, specs: Sequence[Spec]) -> list[dict[str, Any] | CepError]:
        """As `Place.ask_all`."""
        answers: list[dict[str, Any] | CepError] = []
        for spec in specs:
            try:
                answers.append(self.ask(verb, spec))
            except CepError as exc:
                answers.append(exc)
        return answers


class Becoming:
    """As another account, in a process of its own for each call; for root only."""

    def __init__(self, who: Account) -> None:
        self._who = who

    def ask(self, verb: str, spec: Spec) -> dict[str, Any]:
        """As `Place.ask`."""
        answer = self.ask_all(verb, [spec])[0]
        if isinstance(answer, CepError):
            raise answer
        return answer

    def ask_all(self, verb: str, specs: Sequence[Spec]) -> list[dict[str, Any] | CepError]:
        """As `Place.ask_all`."""
        question = json.dumps({"verb": verb, "specs": [encode(spec) for spec in specs]})
        longest = max((float(spec.get("drain_s") or 0) for spec in specs), default=0.0)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "cep.apply.places"],
                check=False,
                input=question,
                capture_output=True,
                text=True,
                timeout=longest + _SLACK_S,
                **facts.becoming(self._who),
            )
        except subprocess.TimeoutExpired as exc:
            raise TemporaryFailure(
                f"{verb!r} as {self._who.name} did not end within {longest + _SLACK_S:g} s."
            ) from exc
        except OSError as exc:
            raise NotAllowed(
                f"{sys.executable} cannot be run as {self._who.name}: {exc}.",
                hint="Install cep where every account with endpoints can read it, e.g. in /opt.",
            ) from exc
        try:
            answers = json.loads(done.stdout)
        except ValueError as exc:
            said = done.stderr.strip().splitlines()[-1:] or ["(it said nothing)"]
            raise SoftwareError(
                f"{sys.executable} as {self._who.name} gave no answer (status {done.returncode}): "
                f"{said[0]}",
                hint=f"Can {self._who.name} read the installation? Try as that account: "
                f"{sys.executable} -m cep version",
            ) from exc
        return [_revived(answer) for answer in answers]


def place_for(who: Account) -> Place:
    """Where the verbs of an account are carried out."""
    return Here() if who.uid == os.getuid() else Becoming(who)


def encode(value: Any) -> Any:
    """A value for JSON in which numbers keep how they were written (an account `007`)."""
    if isinstance(value, IntText | FloatText):
        plain = int(value) if isinstance(value, IntText) else float(value)
        return plain if str(plain) == value.written else {_NUMBER: [plain, value.written]}
    if isinstance(value, Mapping):
        return {str(name): encode(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [encode(inner) for inner in value]
    return value


def decode(value: Any) -> Any:
    """The reverse of `encode`."""
    if isinstance(value, dict):
        if value.keys() == {_NUMBER}:
            plain, written = value[_NUMBER]
            if isinstance(plain, int):
                return IntText.read(plain, written)
            return FloatText.read(plain, written)
        return {name: decode(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [decode(inner) for inner in value]
    return value


_NUMBER = "\0number"  # no key of YAML or JSON that a person writes


def function_of(verb: str) -> Callable[[Spec], dict[str, Any]]:
    """The function that carries out a verb. For a unit of the host no part of a home is loaded."""
    from cep.apply import host

    if verb in host.VERBS:
        return host.VERBS[verb]
    from cep.apply import home

    return home.VERBS[verb]


def _revived(answer: dict[str, Any]) -> dict[str, Any] | CepError:
    if "error" in answer:
        return revived(answer["error"])
    found: dict[str, Any] = answer["done"]
    return found


def _told(answer: dict[str, Any] | CepError) -> dict[str, Any]:
    if isinstance(answer, CepError):
        return {"error": told(answer)}
    return {"done": answer}


def main() -> int:
    """Carry out the verbs on standard input; answer on standard output."""
    os.umask(0o077)
    # What the verbs print themselves must not get between the answers.
    answers_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    question = decode(json.loads(sys.stdin.read()))
    answers = Here().ask_all(question["verb"], question["specs"])
    with answers_to:
        json.dump([_told(answer) for answer in answers], answers_to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
