"""`profiles detect`, and what `configure` makes of it: values with reasons, or a choice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from cep.cli.command import CepCommand, Shared, interactive
from cep.errors import UsageError
from cep.safety.text import printable

if TYPE_CHECKING:
    from cep.profiles.detect.facts import Facts, Scheduler
    from cep.profiles.detect.propose import Candidates
    from cep.profiles.values import Values

_SECONDS = 10.0
_NONE = "none"  # what a person types to leave a variable open


@click.command("detect", cls=CepCommand)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 600),
    default=_SECONDS,
    help=f"For each command that is asked (default {_SECONDS:g}).",
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.pass_obj
def detect(shared: Shared, *, timeout: float, as_json: bool) -> None:
    """Find out what this site has, and propose a profile and values. Nothing is submitted."""
    from cep.profiles.detect import propose
    from cep.profiles.detect.commands import ThisHost
    from cep.profiles.detect.survey import survey

    facts = survey(ThisHost(timeout))
    kinds = propose.profiles(facts)
    proposals = {
        str(kind.value): propose.values(facts, str(kind.value), _defaults(str(kind.value)))
        for kind in kinds.found
    }
    if as_json:
        values = {
            kind: {name: one.as_json() for name, one in found.items()}
            for kind, found in proposals.items()
        }
        click.echo(json.dumps({**facts.as_json(), "profile": kinds.as_json(), "values": values}))
        return
    lines = [*_facts_told(facts), "", "PROFILE", *_told(kinds)]
    for kind, found in proposals.items():
        for name, one in found.items():
            lines += ["", f"{kind}: {name}", *_told(one)]
    kind = "KIND" if kinds.only is None else str(kinds.only.value)
    lines += ["", f"  {shared.program} configure NAME --profile {kind}"]
    click.echo(printable("\n".join(lines), keep="\n"))


def _defaults(profile: str) -> dict[str, Any]:
    from cep.profiles import catalog

    return {name: one.default for name, one in catalog.find(profile).variables.items()}


def profile_of(
    shared: Shared, profile: str | None, site: str | None, ask: Callable[[Values], None]
) -> tuple[str | None, Callable[[Values], None]]:
    """The profile that is meant, and what fills in its values; `auto` is found out here.

    Args:
        shared: The run.
        profile: The value of `--profile`.
        site: A preset that was asked for, which brings a profile of its own.
        ask: Asks for what is missing afterwards.

    Raises:
        UsageError: Several profiles may fit and nobody can be asked, or `--site` is given.
    """
    from cep.profiles.detect import propose
    from cep.profiles.detect.commands import ThisHost
    from cep.profiles.detect.survey import survey

    if profile != "auto":
        return profile, ask
    if site is not None:
        raise UsageError("--site names the kind of site already; --profile auto contradicts it.")
    facts = survey(ThisHost(_SECONDS))
    kinds = propose.profiles(facts)
    if kinds.only is not None:
        chosen = kinds.only.value
        _say(f"profile {chosen}: {kinds.only.reason}")
    elif interactive():
        chosen = _choose("profile", kinds, needed=True)
    else:
        raise UsageError(
            "More than one profile may fit this host, so it is yours to choose:\n"
            + "\n".join(_told(kinds)),
            hint=f"Run it again with one of them: {shared.program} configure NAME --profile "
            f"{kinds.found[0].value} ...",
        )

    def fill(values: Values) -> None:
        _fill(facts, str(chosen), values)
        ask(values)

    return str(chosen), fill


def _fill(facts: Facts, profile: str, values: Values) -> None:
    """Give a variable with one candidate its value; ask or refuse where there are several."""
    from cep.profiles.detect import propose

    open_ones: dict[str, Candidates] = {}
    seen: set[str] = set()
    while True:
        # An answer may lead to more: a partition's limit.
        candidates = propose.values(facts, profile, values.whole())
        name = next((name for name in candidates if name not in seen), None)
        if name is None:
            break
        seen.add(name)
        one = candidates[name]
        if _settled(name, values):
            continue
        if one.only is not None:
            values.add({name: one.only.value})
            _say(f"{name}={one.only.value}: {one.only.reason}")
        elif interactive():
            needed = values.profile.variables[name].required
            values.add({name: _choose(name, one, needed=needed)})
        else:
            open_ones[name] = one
    if open_ones:
        lines = [line for name, one in open_ones.items() for line in (f"{name}:", *_told(one))]
        words = " ".join(f"--set {name}=VALUE" for name in open_ones)
        optional = [n for n in open_ones if not values.profile.variables[n].required]
        null = f" ({optional[0]}=null leaves it open)" if optional else ""
        raise UsageError(
            "There is more than one candidate, and which one is meant is yours to say:\n"
            + "\n".join(lines),
            hint=f"Run it again with {words}{null}.",
        )


def _settled(name: str, values: Values) -> bool:
    """Whether a variable was given, or another that excludes it."""
    if name in values.given or name in values.problems:
        return True
    variables = values.profile.variables
    return name not in variables or any(
        values.given.get(other) is not None for other in variables[name].excludes
    )


def tell(values: Values) -> None:
    """Let what a scheduler says be told beside the variables that are missing or wrong."""
    from cep.profiles.detect import propose
    from cep.profiles.detect.commands import ThisHost
    from cep.profiles.detect.survey import scheduler_of
    from cep.profiles.variables import Detected

    if values.detected or not (values.missing() or values.problems):
        return
    scheduler = scheduler_of(ThisHost(_SECONDS), values.profile.name)
    if scheduler is None:
        return
    if not scheduler.answers:
        _say(f"Nothing is known of this site's values: {'; '.join(scheduler.troubles)}")
    found = {}
    for name, one in propose.of_scheduler(scheduler, values.whole()).items():
        if one.only is not None:
            found[name] = one.only
        elif not interactive():
            listed = [each.value for each in one.found]
            found[name] = Detected(listed, f"{scheduler.name} shows these {len(listed)}")
        else:
            _say("\n".join([f"{name}:", *_told(one)]))
    values.detected = found


def _choose(name: str, candidates: Candidates, *, needed: bool) -> Any:
    _say("\n".join([f"{name}:", *_told(candidates)]))
    options = [str(one.value) for one in candidates.found] + ([] if needed else [_NONE])
    answer = click.prompt(name, type=click.Choice(options), err=True)
    return None if answer == _NONE and not needed else answer


def _told(candidates: Candidates) -> list[str]:
    lines = [f"  {one.value}  ({one.reason})" for one in candidates.found]
    return lines + [f"  not {reason}" for reason in candidates.left_out]


def _say(text: str) -> None:
    click.echo(printable(text, keep="\n"), err=True)


def _facts_told(facts: Facts) -> list[str]:
    host = facts.host
    lines = [
        "THIS HOST",
        f"  {host.name}: {host.cores} cores, {host.memory_mb} MB of memory",
        f"  Python {host.python.version}: {host.python.path}",
        *(f"  GPU: {one}" for one in host.gpus),
    ]
    tools = ([host.modules] if host.modules else []) + list(host.containers)
    for tool in tools:
        trouble = f"; {tool.trouble}" if tool.trouble else ""
        lines.append(f"  {tool.name} {tool.version}: {tool.path}{trouble}")
    lines += ["", "INTERFACES  (can compute nodes reach them?)"]
    lines += [
        f"  {one.name}  {', '.join(one.addresses) or 'no address'}: {one.reach}, since {one.reason}"
        for one in facts.interfaces
    ]
    for scheduler in facts.schedulers:
        lines += ["", *_scheduler_told(scheduler)]
    return lines


def _scheduler_told(scheduler: Scheduler) -> Iterable[str]:
    state = "answers" if scheduler.answers else "does NOT answer"
    yield f"{scheduler.name.upper()}  {scheduler.version}  {state}"
    yield f"  commands: {', '.join(scheduler.commands)}"
    for trouble in scheduler.troubles:
        yield f"  {trouble}"
    for queue in scheduler.queues:
        yield f"  {queue.name}  ({queue.words})"
    for account in scheduler.accounts:
        default = ", default" if account.default else ""
        yield f"  account {account.name}  ({account.source}{default})"
