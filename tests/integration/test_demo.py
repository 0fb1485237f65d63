"""`cep demo`: it shows the whole, and leaves neither process nor file, however it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.scene import Scene

CEP = Path(sys.executable).parent / "cep"
OCCUPY = (
    "import socket; s = socket.create_server(('127.0.0.1', 5000)); print('ready', flush=True); "
    "s.accept()"
)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Scene() as made:
        yield made


def left_behind(scene: Scene) -> tuple[list[int], list[Path]]:
    """Processes that stay in the scene's network, and files in its home and temporary directory."""
    return scene.network.wait_until_empty(), [
        path for path in scene.root.rglob("*") if path.name != "tmp"
    ]


def test_the_demo_prints_its_account_and_leaves_nothing(scene: Scene) -> None:
    done = scene.cep("demo")
    assert re.search(r"^Endpoint ID: +[0-9a-f-]{36}$", done.stdout, re.M), done.stdout
    run = re.search(r"^Functions run: +(\d+)$", done.stdout, re.M)
    received = re.search(r"^Results received: +(\d+)$", done.stdout, re.M)
    assert run and received, done.stdout
    assert int(run.group(1)) == int(received.group(1)) > 20
    assert left_behind(scene) == ([], [])


def test_an_interrupted_demo_leaves_nothing(scene: Scene) -> None:
    with Scene() as other:  # side by side: Ctrl-C for one, the other is ended
        begun = [
            (one, number, one.network.popen([CEP, "demo"], env=one.environment, cwd=one.root))
            for one, number in ((scene, signal.SIGINT), (other, signal.SIGTERM))
        ]

        def interrupt(number: int, process: subprocess.Popen[str]) -> None:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("Endpoint ID:"):
                    break
            process.send_signal(number)

        with ThreadPoolExecutor(len(begun)) as pool:
            list(pool.map(lambda demo: interrupt(*demo[1:]), begun))
        for one, number, process in begun:
            rest, _ = process.communicate(timeout=100)
            assert process.returncode == 128 + number, rest
            assert "Traceback" not in rest
            assert left_behind(one) == ([], [])


def test_a_taken_port_is_named_with_its_owner(scene: Scene) -> None:
    owner = scene.network.popen([sys.executable, "-c", OCCUPY], env=scene.environment)
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        done = scene.cep("demo", check=False)
        assert done.returncode == 69, done.stderr
        assert "5000" in done.stderr
        assert str(owner.pid) in done.stderr, "the owner is named"
        assert "--port" not in done.stderr, "the demo has no such option"
        assert "Traceback" not in done.stderr
    finally:
        owner.kill()
        owner.communicate()
    assert left_behind(scene) == ([], [])


def test_a_failing_step_gives_its_words_and_code_and_leaves_nothing(scene: Scene) -> None:
    # A library of the hub that is there and cannot be imported.
    (scene.root / "tmp" / "uvicorn.py").write_text("raise ImportError('not today')\n")
    environment = {**scene.environment, "PYTHONPATH": str(scene.root / "tmp")}
    done = scene.command([CEP, "demo"], env=environment, check=False)
    assert done.returncode == 70
    assert done.stderr.startswith("cep: The hub ended before it served.")
    assert "not today" in done.stderr
    assert scene.network.wait_until_empty() == []
    listing = {path.name for path in (scene.root / "tmp").iterdir()}
    assert listing - {"__pycache__"} == {"uvicorn.py"}
