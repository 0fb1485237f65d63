"""`import`: take over an endpoint of a published version; nothing of it is run or changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cep import paths
from cep.cli.command import CepCommand, Shared
from cep.errors import CantCreate, ConfigError, InputMissing, UsageError
from cep.safety.files import check_trusted
from cep.safety.text import printable, redact

if TYPE_CHECKING:
    from cep.config.foreign.imported import Imported


@click.command("import", cls=CepCommand)
@click.argument("src", type=click.Path(path_type=Path))
@click.option("--as", "new_name", metavar="NAME", help="Name of the new endpoint.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A variable of a 4.x template; may be given again.",
)
@click.option(
    "--vars",
    "files",
    multiple=True,
    metavar="FILE",
    help="Variables of a 4.x template from a file of YAML or JSON; --set wins over it.",
)
@click.option("--dry-run", is_flag=True, help="Write nothing; show what would be written.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.pass_obj
def import_(
    shared: Shared,
    *,
    src: Path,
    new_name: str | None,
    assignments: tuple[str, ...],
    files: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make an endpoint from one of a published version (2.x, 3.x or 4.x).

    SRC is its directory, its config.yaml or config.py, or its user_config_template.yaml.j2. It is
    left as it is, and a config.py is read as text and never run. The endpoint keeps its id.
    """
    from cep.config.foreign.imported import read

    path = src.expanduser().absolute()
    if not path.exists():
        raise InputMissing(f"There is no {path} to import.")
    name = new_name if new_name is not None else _name_of(path)
    root = _place(shared, name)
    imported = read(path, _from_files(files), _words(assignments), str(root / "config.yaml"))
    notes = [*imported.findings.notes, *_same_id(imported)]
    if not dry_run:
        from cep.profiles import endpoint

        record = endpoint.Record.of(imported.text)
        endpoint.create(root, imported.text, record, endpoint_id=imported.endpoint_id)
    if as_json:
        click.echo(json.dumps(_told(imported, root, notes, written=not dry_run)))
        return
    if dry_run:
        click.echo(imported.text, nl=False)
    else:
        click.echo(f"Created profile for endpoint named <{name}>\n")
        click.echo(f"\tConfiguration file: {root / 'config.yaml'}\n")
        click.echo("Use the `start` subcommand to run it:\n")
        click.echo(f"\t$ {shared.program} start {name}")
    _report(imported, notes)


def _name_of(path: Path) -> str:
    return path.name if path.is_dir() else path.parent.name


def _place(shared: Shared, name: str) -> Path:
    paths.check_new_name(name)
    root = paths.endpoint_root(shared.base, name)
    if root.exists() or root.is_symlink():
        raise CantCreate(
            f"There is an endpoint named {name} already: {root}.",
            hint="Give the new one another name: --as NAME",
        )
    return root


def _words(assignments: tuple[str, ...]) -> dict[str, str]:
    words = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise UsageError(f"--set takes NAME=VALUE, not {assignment!r}.")
        words[name] = value
    return words


def _from_files(files: tuple[str, ...]) -> dict[str, Any]:
    from cep.config.document import parse
    from cep.errors import DataError

    found: dict[str, Any] = {}
    for file in files:
        path = Path(file).expanduser()
        if path.is_file():  # not a pipe or a terminal
            check_trusted(path, ConfigError, "The variables file", any_owner=True)
        try:
            found.update(parse(path.read_text(encoding="utf-8"), str(path)))
        except (OSError, UnicodeDecodeError) as exc:
            raise InputMissing(f"The variables file {path} cannot be read: {exc}.") from exc
        except ConfigError as exc:
            raise DataError(exc.message.replace("The configuration", "The variables file")) from exc
    return found


def _same_id(imported: Imported) -> list[str]:
    """Two directories with one id: only one of them may run."""
    from cep.agent.state import EndpointState, observe

    if imported.endpoint_id is None:
        return []
    state = observe(paths.EndpointPaths.of(imported.directory)).state
    runs = " It runs now." if state is EndpointState.RUNNING else ""
    return [
        f"{imported.directory} has the same id, {imported.endpoint_id}.{runs} Stop it there before "
        "you start this one, and do not start it again."
    ]


def _told(imported: Imported, root: Path, notes: list[str], *, written: bool) -> dict[str, Any]:
    findings = imported.findings
    return {
        "name": root.name,
        "directory": str(root),
        "written": written,
        "endpoint_id": imported.endpoint_id,
        "files": [str(file) for file in imported.files],
        "text": redact(imported.text),
        "left_out": [one.as_json() for one in findings.left_out],
        "to_write": [one.as_json() for one in findings.to_write],
        "not_run": [one.as_json() for one in findings.unread],
        "notes": notes,
    }


def _report(imported: Imported, notes: list[str]) -> None:
    findings = imported.findings
    for heading, remarks in (
        ("Left out, since there is no equivalent:", findings.left_out),
        ("Still to be written before the endpoint starts:", findings.to_write),
        ("Not run, so what it would change is not in the file:", findings.unread),
    ):
        if remarks:
            click.echo(heading, err=True)
            for remark in remarks:
                click.echo(f"  {_safe(str(remark))}", err=True)
    for note in notes:
        click.echo(_safe(note), err=True)


def _safe(text: str) -> str:
    return printable(redact(text))
