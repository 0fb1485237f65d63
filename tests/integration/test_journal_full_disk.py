"""A really full disk: a small tmpfs in a mount namespace, gone with the process that made it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("full_disk_child.py")
ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = (
    ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]
)


def namespaces_work() -> bool:
    try:
        return (
            subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode == 0
        )
    except FileNotFoundError:
        return False


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    if not namespaces_work():
        if os.environ.get("CI"):
            pytest.fail("this machine lets no mount namespace be made")
        pytest.skip("this machine lets no mount namespace be made")
    script = 'mount -t tmpfs -o size=18m tmpfs "$1" && exec "$2" "$3" "$1"'
    child = subprocess.run(
        [*NAMESPACE, "sh", "-c", script, "sh", str(tmp_path), sys.executable, str(CHILD)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout == "ok\n"
