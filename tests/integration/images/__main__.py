"""Prepare the Docker engine and all test images: `python -m tests.integration.images`.

Optional: the tests do the same when they need an image; done ahead, it costs no test its time.
With names as arguments, only those images; without, the endpoint's own image, Apptainer's, the
installations that hosts and clusters get copies of, and the wheels that they lend as well.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.integration import container_host, endpoint_image, image_python, other_python
from tests.integration.docker_engine import EngineMissing, prepare
from tests.integration.slurm import UID
from tests.integration.slurm_site import INSTALLATION

# Where the tests of the usual form install cep for an account.
INSTALLED_IN = ("apptainer", "slurm", "slurm-accounting", "systemd", "systemd-252")


def main() -> int:
    """Prepare and print one line per image."""
    try:
        tags = prepare(sys.argv[1:] or None)
        if not sys.argv[1:]:
            with ThreadPoolExecutor(max_workers=3, thread_name_prefix="ahead") as pool:
                endpoint = pool.submit(endpoint_image.ensure)
                apptainer = pool.submit(container_host.apptainer_with_images)
                others = [pool.submit(_install, name) for name in INSTALLED_IN]
                others += [pool.submit(image_python.wheels, endpoint_image.BASE)]
                others += [pool.submit(other_python.fetched)]
            tags |= {"endpoint": endpoint.result(), "apptainer-images": apptainer.result()}
            for other in others:
                other.result()
    except EngineMissing as exc:
        print(f"Images are not prepared: {exc}", file=sys.stderr)
        return 69
    for name, tag in tags.items():
        print(f"{name}: {tag}")
    return 0


def _install(image: str) -> None:
    with tempfile.TemporaryDirectory(prefix="cep-ahead-", dir="/tmp") as home:
        image_python.install(image, INSTALLATION, Path(home), uid=UID)


if __name__ == "__main__":
    sys.exit(main())
