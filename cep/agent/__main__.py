"""The detached agent: `python -m cep.agent USER_DIR NAME PIPE_DESCRIPTOR OPTIONS_JSON`.

Started by `cep.agent.launch` only; people use `cep start`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from cep.agent.launch import Announcer
from cep.agent.options import StartOptions
from cep.errors import CepError, SoftwareError


def main(argv: list[str]) -> int:
    """Run the agent until it ends; returns the exit code."""
    base, name, descriptor, options = argv
    os.set_inheritable(int(descriptor), False)
    announcer = Announcer(int(descriptor))
    try:
        from cep.agent.agent import run_endpoint

        return run_endpoint(
            Path(base) / name, StartOptions(**json.loads(options)), announcer, detached=True
        )
    except CepError as error:
        announcer.error(error)
        return error.exit_code
    except Exception as exc:  # the top of the process: whatever it is, the starter must hear it
        announcer.error(
            SoftwareError(f"The agent failed unexpectedly: {type(exc).__name__}: {exc}")
        )
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
