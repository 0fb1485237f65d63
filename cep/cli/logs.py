"""`logs`: the end of an endpoint's log or of what a block wrote, and with -f what comes.

Of an endpoint that systemd runs it is what the journal has, and the log file where the journal
cannot be read.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click

from cep.cli import journal, managed, naming
from cep.cli.command import CepCommand, Shared
from cep.cli.status import describe, last_word
from cep.errors import InputMissing, Unavailable
from cep.paths import EndpointPaths
from cep.safety.text import printable


@click.command(cls=CepCommand)
@click.argument("name", default=naming.DEFAULT_NAME)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="How many lines from the end.",
)
@click.option(
    "--block", metavar="J", help="What this block wrote instead: its number, or its job's id."
)
@click.pass_obj
def logs(shared: Shared, *, name: str, follow: bool, lines: int, block: str | None) -> int:
    """Show the end of an endpoint's log."""
    found = naming.find(shared.base, name)
    unit = _journaled(found)
    if block is not None:
        return _of_block(found, unit, block, follow, lines)
    if unit is not None:
        more = [f"--lines={lines}", *(["--follow"] if follow else [])]
        return _print(journal.show(journal.command(unit, found.name, *more)))
    if not follow and not found.log.is_file():
        raise InputMissing(
            f"Endpoint {found.name} has no log yet: {found.log}.",
            hint=f"It gets one with: {shared.program} start {found.name}",
        )
    return _tail([found.log], follow, lines)


def _journaled(found: EndpointPaths) -> managed.Unit | None:
    """The unit whose journal is to be shown; None where the files are."""
    unit = managed.unit_of(found.root)
    if unit is None or not unit.owns:
        return None
    refusal = journal.why_not(unit, found.name)
    if refusal is None:
        return unit
    click.echo(
        f"The journal of {unit.name} cannot be read here: {refusal}. This is "
        f"{found.log}, which has what the agent says, but not what systemd says of it.",
        err=True,
    )
    return None


def _of_block(
    found: EndpointPaths, unit: managed.Unit | None, block: str, follow: bool, lines: int
) -> int:
    """What a block wrote, after what the journal has of it."""
    number, files = _files_of(found, block)
    if unit is not None:
        click.echo(f"==> the journal of {unit.name}, block {number} <==")
        more = (f"--lines={lines}",)
        _print(journal.show(journal.command(unit, found.name, *more, block=number)))
        click.echo()
    return _tail(files, follow, lines, always_named=True)


def _files_of(found: EndpointPaths, wanted: str) -> tuple[str, list[Path]]:
    """The number and the files of a block that is named by its number or its job."""
    from cep.agent.block_files import files_of_block

    agent = describe(found)["agent"] or last_word(found) or {}
    engine = agent.get("engine")
    blocks = [
        block
        for key in ("ended_blocks", "blocks")
        for block in (engine.get(key) or [] if isinstance(engine, dict) else [])
        if isinstance(block, dict)
    ]
    of_job = {str(block.get("job")): str(block.get("block")) for block in blocks}
    number = of_job.get(wanted, wanted)
    files = files_of_block(found, number)
    if not files:
        raise InputMissing(
            f"Endpoint {found.name} has no files of a block or job {wanted}.",
            hint=f"Show its blocks with: cep blocks {found.name}",
        )
    return number, files


def _tail(files: Sequence[Path], follow: bool, lines: int, *, always_named: bool = False) -> int:
    program = shutil.which("tail")
    if program is None:
        raise Unavailable(f"The program tail was not found; the log is {files[0]}.")
    # tail -F waits for changes with inotify and follows the log through its rotation.
    words = [program, "-n", str(lines), *(["-F"] if follow else [])]
    words += [*(["-v"] if always_named else []), "--", *map(str, files)]
    return _print(
        subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL if follow else None
        )
    )


def _print(program: subprocess.Popen[bytes]) -> int:
    """Show what a program prints, harmless, until it ends or Ctrl-C; returns its status."""
    with program:
        assert program.stdout is not None
        try:
            # Tasks of the thread engine and the scheduler's programs write there as they like.
            for line in program.stdout:
                click.echo(printable(line.decode("utf-8", "replace"), keep="\n\t"), nl=False)
            return program.wait()
        except KeyboardInterrupt:
            program.terminate()
            return 0
