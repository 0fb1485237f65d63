"""`logs`: the end of an endpoint's log, and with -f what comes."""

from __future__ import annotations

import shutil
import subprocess

import click

from cep.cli import naming
from cep.cli.command import CepCommand, Shared
from cep.errors import InputMissing, Unavailable
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
@click.pass_obj
def logs(shared: Shared, *, name: str, follow: bool, lines: int) -> int:
    """Show the end of an endpoint's log."""
    found = naming.find(shared.base, name)
    if not follow and not found.log.is_file():
        raise InputMissing(
            f"Endpoint {found.name} has no log yet: {found.log}.",
            hint=f"It gets one with: {shared.program} start {found.name}",
        )
    program = shutil.which("tail")
    if program is None:
        raise Unavailable(f"The program tail was not found; the log is {found.log}.")
    # tail -F waits for changes with inotify and follows the log through its rotation.
    words = [program, "-n", str(lines), *(["-F"] if follow else []), "--", str(found.log)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL if follow else None
    ) as tail:
        assert tail.stdout is not None
        try:
            # Tasks of the thread engine and the scheduler's programs write there as they like.
            for line in tail.stdout:
                click.echo(printable(line.decode("utf-8", "replace"), keep="\n\t"), nl=False)
            return tail.wait()
        except KeyboardInterrupt:
            tail.terminate()
            return 0
