"""From facts to values of a profile, each with its reason. Pure.

Nothing is guessed in silence: where there is one candidate it is taken and told, where there are
several they are listed, and a person or `--set` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cep.profiles.detect.facts import Facts, Queue, Scheduler, seconds_of, walltime
from cep.profiles.variables import Detected

LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a variable may be here.

    Attributes:
        found: Each with its reason, the likeliest first.
        left_out: What else is there and why it is no candidate, as sentences.
    """

    found: tuple[Detected, ...]
    left_out: tuple[str, ...] = ()

    @property
    def only(self) -> Detected | None:
        """The one candidate, when there is no other."""
        return self.found[0] if len(self.found) == 1 else None

    def as_json(self) -> dict[str, Any]:
        """The candidates as `profiles detect --json` tells them."""
        only = self.only
        return {
            "value": only.value if only else None,
            "candidates": [{"value": one.value, "reason": one.reason} for one in self.found],
            "left_out": list(self.left_out),
        }


def profiles(facts: Facts) -> Candidates:
    """Which profiles fit this site."""
    found, left_out = [], []
    for one in facts.schedulers:
        if one.stands_for:
            left_out.append(
                f"{one.profile}: its commands here are a front of {one.stands_for}, by what "
                "pbsnodes says of its nodes"
            )
        elif one.answers:
            count = len(one.queues)
            what = "its machines" if one.profile == "htcondor" else _queues(count)
            found.append(Detected(one.profile, f"{one.name} answers and shows {what}"))
        else:
            why = "; ".join(one.troubles) or "it does not answer"
            found.append(Detected(one.profile, f"commands of {one.name} are here, but: {why}"))
    if not found:
        found.append(Detected(LOCAL, "no scheduler's command was found on this host"))
    elif not any(one.answers and not one.stands_for for one in facts.schedulers):
        reason = "no scheduler answers; tasks would run on this host itself"
        found.append(Detected(LOCAL, reason))
    return Candidates(tuple(found), tuple(left_out))


def _queues(count: int) -> str:
    return "one queue" if count == 1 else f"{count} queues"


def values(facts: Facts, profile: str, known: Mapping[str, Any]) -> dict[str, Candidates]:
    """What the variables of a profile may be, beside those that are known already.

    Args:
        facts: What a survey found.
        profile: The profile.
        known: Values of variables that were given.
    """
    scheduler = next((one for one in facts.schedulers if one.profile == profile), None)
    if scheduler is None:
        return _containers(facts) if profile == "container" else {}
    interface = _interface(facts)
    more = {"interface": interface} if interface.found else {}
    return {**of_scheduler(scheduler, known), **more}


def of_scheduler(scheduler: Scheduler, known: Mapping[str, Any]) -> dict[str, Candidates]:
    """What the variables may be that a scheduler alone can tell."""
    if scheduler.profile == "htcondor" or not scheduler.queues:
        return {}
    name = "partition" if scheduler.profile == "slurm" else "queue"
    found = {name: _queue(scheduler)}
    if scheduler.accounts:
        found["account"] = _account(scheduler)
    only = found[name].only
    chosen = known.get(name) or (only.value if only else None)
    queue = next((one for one in scheduler.queues if one.name == chosen), None)
    if queue is not None and (limit := _walltime(queue, known)) is not None:
        found["walltime"] = Candidates((limit,))
    return {name: one for name, one in found.items() if one.found}


def _queue(scheduler: Scheduler) -> Candidates:
    found, left_out = [], []
    own = {one.name for one in scheduler.accounts}
    for queue in sorted(scheduler.queues, key=lambda one: not one.default):
        if not queue.open:
            left_out.append(f"{queue.name}: it is closed now")
        elif queue.accounts and own and not own & set(queue.accounts):
            left_out.append(f"{queue.name}: only {', '.join(queue.accounts)} may use it")
        else:
            found.append(Detected(queue.name, queue.words))
    return Candidates(tuple(found), tuple(left_out))


def _account(scheduler: Scheduler) -> Candidates:
    ordered = sorted(scheduler.accounts, key=lambda one: not one.default)
    return Candidates(
        tuple(
            Detected(
                one.name, f"your {'default ' if one.default else ''}account, says {one.source}"
            )
            for one in ordered
        )
    )


def _interface(facts: Facts) -> Candidates:
    """Interfaces with evidence; without any, those that nothing speaks against."""
    for wanted in (("yes",), ("likely", "unknown")):
        found = [
            Detected(one.name, f"{', '.join(one.addresses)}: {one.reason}")
            for one in facts.interfaces
            if one.reach in wanted
        ]
        if found:
            others = [
                f"{one.name}: {one.reason}" for one in facts.interfaces if one.reach not in wanted
            ]
            return Candidates(tuple(found), tuple(others))
    return Candidates(())


def _walltime(queue: Queue, known: Mapping[str, Any]) -> Detected | None:
    """The queue's own limit, where the profile's usual time is longer."""
    usual = seconds_of(str(known.get("walltime") or "")) or 0
    if queue.longest_s is None or usual <= queue.longest_s:
        return None
    reason = f"the longest that {queue.name} allows, which is less than the usual time"
    return Detected(walltime(queue.longest_s), reason)


def _containers(facts: Facts) -> dict[str, Candidates]:
    usable = [one for one in facts.host.containers if not one.trouble]
    found = tuple(Detected(one.name, f"{one.path} {one.version}".strip()) for one in usable)
    left_out = tuple(f"{one.name}: {one.trouble}" for one in facts.host.containers if one.trouble)
    return {"container_type": Candidates(found, left_out)} if found else {}
