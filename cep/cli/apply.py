"""`apply`: bring the endpoints of a document to what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cep.cli.command import CepCommand, Shared, set_up_logging
from cep.errors import CepError, InputMissing, NotAllowed, UsageError
from cep.safety.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cep.apply.document import Document
    from cep.apply.result import Outcome

_STANDARD_INPUT = "-"


@click.command(cls=CepCommand)
@click.option(
    "-f", "--file", "file", metavar="FILE", help="The document, YAML or JSON; - for stdin."
)
@click.option("--dry-run", is_flag=True, help="Change nothing; tell what would be done.")
@click.option("--diff", "show_diff", is_flag=True, help="Show what changes in which file.")
@click.option("--info", is_flag=True, help="Only tell how the endpoints stand.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.option(
    "--schema",
    "schema_of",
    type=click.Choice(("input", "output")),
    help="Print the JSON schema of the document, or of the answer.",
)
@click.pass_obj
def apply(
    shared: Shared,
    *,
    file: str | None,
    dry_run: bool,
    show_diff: bool,
    info: bool,
    as_json: bool,
    schema_of: str | None,
) -> int:
    """Bring the endpoints that a document lists to what it says of them.

    What is there already is left as it is, so a second run changes nothing.
    """
    set_up_logging(shared)
    if schema_of is not None:
        from cep.apply.schema import text_of

        click.echo(text_of(schema_of), nl=False)
        return 0
    try:
        if info and (dry_run or show_diff):
            raise UsageError("--info changes nothing; --dry-run and --diff do not go with it.")
        if file is None and not info:
            raise UsageError("Name the document: -f FILE, or -f - for standard input.")
        outcomes = _run(file, info=info, dry_run=dry_run, quiet=as_json)
    except CepError as exc:
        return _refused(shared, exc, as_json=as_json, dry_run=dry_run)
    return _tell(shared, outcomes, as_json=as_json, show_diff=show_diff, dry_run=dry_run)


def _run(file: str | None, *, info: bool, dry_run: bool, quiet: bool) -> Sequence[Outcome]:
    from cep.apply.run import Run, all_of_this_account, looked

    document = all_of_this_account() if file is None else _read(file)
    if info:
        return looked(document)
    run = Run(document)
    planned = run.planned()
    return planned if dry_run else run.done(_silent if quiet else _begin)


def _read(file: str) -> Document:
    from cep.apply.document import read

    try:
        if file == _STANDARD_INPUT:
            return read(sys.stdin.read(), "on standard input")
        path = Path(file).expanduser()
        document = read(path.read_text(encoding="utf-8"), str(path))
        readable = path.is_file() and path.stat().st_mode & 0o077
    except (OSError, UnicodeDecodeError, ValueError) as exc:  # a ValueError: stdin is closed
        raise InputMissing(f"The document {file} cannot be read: {exc}.") from exc
    if document.holds_secret and readable:
        raise NotAllowed(
            f"Others can read {path}, which holds a secret.",
            hint=f"Run: chmod 600 {path}; or name a file of the secret: client_secret_file",
        )
    return document


def _silent(_name: str, _action: str) -> None:
    pass


def _begin(name: str, action: str) -> None:
    """A start or a drain takes its time, so say what is going on."""
    click.echo(printable(f"{name}: {action.replace('_', ' ')} ..."), err=True)


def _refused(shared: Shared, error: CepError, *, as_json: bool, dry_run: bool) -> int:
    if as_json:
        from cep.apply.result import refusal

        click.echo(json.dumps(refusal(error, dry_run=dry_run)))
    return shared.tell(error)


def _tell(
    shared: Shared, outcomes: Sequence[Outcome], *, as_json: bool, show_diff: bool, dry_run: bool
) -> int:
    from cep.apply.result import answer, exit_code

    told = answer(outcomes, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(told))
    for outcome, entry in zip(outcomes, told["endpoints"], strict=True):
        if not as_json:
            for line in outcome.lines():
                click.echo(line)
            if show_diff:
                _show(entry)
        if outcome.error is not None:
            click.echo(printable(f"Endpoint {outcome.name} failed:"), err=True)
            shared.tell(outcome.error)
    return exit_code(outcomes)


def _show(entry: dict[str, Any]) -> None:
    from cep.profiles.render import difference

    for one in entry["diff"]:
        text = difference(one["before"], one["after"], one["after_header"])
        click.echo(printable(text, keep="\n\t"), nl=False)
        if not text:
            click.echo(f"{one['after_header']}: only what is masked differs")
