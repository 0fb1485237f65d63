"""The detached agent: `python -m cep.agent USER_DIR NAME PIPE_DESCRIPTOR OPTIONS_JSON`.

Started by `cep.agent.launch` only; people use `cep start`. Its standard input holds the
credentials as a JSON object of environment variables; a device there means none. A pipe that closes
without a word says that the command has ended, and the agent does not begin.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
from pathlib import Path
from typing import Any

from cep.agent.launch import Announcer
from cep.agent.options import StartOptions
from cep.cycles import do_not_look_while_loading
from cep.errors import CepError, SoftwareError, TemporaryFailure

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Run the agent until it ends; returns the exit code."""
    base, name, descriptor, options = argv
    os.set_inheritable(int(descriptor), False)
    announcer = Announcer(int(descriptor))
    do_not_look_while_loading()
    try:
        from cep.agent.agent import run_endpoint

        secrets = _handed_over()
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device
            os.dup2(nothing.fileno(), 0)
        return run_endpoint(
            Path(base) / name,
            StartOptions(**json.loads(options)),
            announcer,
            secrets=secrets,
            detached=True,
        )
    except CepError as error:
        announcer.error(error)
        return error.exit_code
    except Exception as exc:  # the top of the process: whatever it is, the starter must hear it
        announcer.error(
            SoftwareError(f"The agent failed unexpectedly: {type(exc).__name__}: {exc}")
        )
        log.critical("the agent failed unexpectedly", exc_info=True, extra={"event": "agent.fault"})
        return SoftwareError.exit_code


def _handed_over() -> dict[str, Any]:
    """Wait for the credentials."""
    said = sys.stdin.buffer.read()
    if not said and stat.S_ISFIFO(os.fstat(0).st_mode):
        raise TemporaryFailure("The command that starts the endpoint ended before it was started.")
    return dict(json.loads(said or b"{}"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
