"""Prepare the Docker engine and all test images: `python -m tests.integration.images`.

Optional: the tests do the same when they need an image; done ahead, it costs no test its time.
With names as arguments, only those images; without, the endpoint's own image and the installations
that hosts and clusters get copies of as well.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.integration import endpoint_image, image_python
from tests.integration.docker_engine import EngineMissing, prepare
from tests.integration.slurm import UID
from tests.integration.slurm_site import INSTALLATION

# Where the tests of the usual form install cep for an account.
INSTALLED_IN = ("apptainer", "slurm", "slurm-accounting", "systemd")


def main() -> int:
    """Prepare and print one line per image."""
    try:
        tags = prepare(sys.argv[1:] or None)
        if not sys.argv[1:]:
            tags["endpoint"] = endpoint_image.ensure()
            for name in INSTALLED_IN:
                with tempfile.TemporaryDirectory(prefix="cep-ahead-", dir="/tmp") as home:
                    image_python.install(name, INSTALLATION, Path(home), uid=UID)
    except EngineMissing as exc:
        print(f"Images are not prepared: {exc}", file=sys.stderr)
        return 69
    for name, tag in tags.items():
        print(f"{name}: {tag}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
