"""The detached hub: `python -m cep.hub FD`, options as JSON on stdin, one line of news to FD."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from cep.errors import CepError
from cep.hub.options import HubFiles, HubOptions
from cep.hub.running import RunningHub


def main() -> int:
    """Serve; the news is `{"ready": URL}` or `{"error", "hint", "exit_code"}`."""
    news = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8")
    values = json.load(sys.stdin)
    options = HubOptions(**{**values, "state_dir": Path(values["state_dir"])})

    def ready(running: RunningHub) -> None:
        json.dump({"ready": running.public_url}, news)
        news.close()

    try:
        from cep.hub.app import serve
        from cep.hub.logs import log_to_file

        log_to_file(HubFiles(options.state_dir).log)
        serve(options, ready)
    except CepError as exc:
        if not news.closed:
            json.dump({"error": exc.message, "hint": exc.hint, "exit_code": exc.exit_code}, news)
            news.close()
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
