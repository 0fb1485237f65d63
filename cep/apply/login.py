"""`python -m cep.apply.login BASE NAME`: exit 0 when the account is logged in, else 77.

Started by `enable-on-boot` as the endpoint's owner, when it runs as root itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cep.errors import CepError, NotAllowed


def main(argv: list[str]) -> int:
    """Look, and say by the exit code."""
    from cep.apply.facts import has_login
    from cep.config.load import load

    base, name = argv
    try:
        there = has_login(Path(base), load(Path(base) / name / "config.yaml"))
    except CepError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0 if there else NotAllowed.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
