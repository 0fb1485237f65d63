"""The detached agent: `python -m cep.agent USER_DIR NAME PIPE_DESCRIPTOR OPTIONS_JSON`.

Started by `cep.agent.launch` only; people use `cep start`. Its standard input holds the
credentials as a JSON object of environment variables, or nothing.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from cep.agent.launch import Announcer
from cep.agent.options import StartOptions
from cep.errors import CepError, SoftwareError

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Run the agent until it ends; returns the exit code."""
    base, name, descriptor, options = argv
    os.set_inheritable(int(descriptor), False)
    announcer = Announcer(int(descriptor))
    try:
        from cep.agent.agent import run_endpoint

        secrets = json.loads(sys.stdin.buffer.read() or b"{}")
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
