"""The script around a container's command, in real shells, with a stand-in for the engine.

The stand-in keeps a file for each container and is not ended by its engine's client; a real Docker
has its own tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cep.config.settings import ComponentSettings, HtexSettings
from cep.engines.container_guard import SCRIPT_NAME, guarded, write_guard
from cep.engines.container_leftovers import Containers, containers_of, end_leftover_containers
from cep.engines.containers import Container
from cep.errors import EngineError

ENGINE = r"""#!/bin/bash
cd "$(dirname "$0")/containers" || exit 70
verb=$1; shift
case $verb in
  run)
    labels=()
    while [ $# -gt 0 ]; do
      case $1 in
        --rm) shift ;;
        --name) name=$2; shift 2 ;;
        --label) labels+=("$2"); shift 2 ;;
        *) break ;;
      esac
    done
    printf '%s\n' "${labels[@]}" > "$name"
    printf '%s\n' "$@" > ../words
    if [ "$1" = wait ]; then trap '' HUP INT TERM; echo up > ../up; exec sleep 600; fi
    [ "$1" = left ] || rm "$name"
    exit "${2:-0}" ;;
  ps)
    shift 2
    wanted=()
    while [ $# -gt 0 ]; do wanted+=("${2#label=}"); shift 2; done
    for file in *; do
      [ -e "$file" ] || continue
      for label in "${wanted[@]}"; do grep -qxF -- "$label" "$file" || continue 2; done
      echo "$file"
    done ;;
  rm) shift 2; rm -- "$@" ;;
  *) exit 64 ;;
esac
"""
# A shell cannot hear a signal that was ignored when it began, as SIGHUP is under nohup.
HEARING = """
import os, signal, sys
signal.signal(int(sys.argv[1]), signal.SIG_DFL)
os.execvp("sh", ["sh", "-c", sys.argv[2]])
"""
DOCKER = Container("docker", "img", "")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for docker on PATH; its containers are files in `containers`."""
    folder = tmp_path / "bin"
    (folder / "containers").mkdir(parents=True)
    (folder / "docker").write_text(ENGINE)
    (folder / "docker").chmod(0o755)
    os.mkfifo(folder / "up")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def containers(engine: Path) -> list[str]:
    return sorted(path.name for path in (engine / "containers").iterdir())


def line(tmp_path: Path, words: str, *, block: str = "0", endpoint: str = "E") -> str:
    run_dir = tmp_path / "a run 'dir'"
    run_dir.mkdir(exist_ok=True)
    write_guard(run_dir, DOCKER)
    return guarded(f"docker run {words}", DOCKER, str(run_dir), endpoint, block)


def test_words_and_exit_status_pass_through(engine: Path, tmp_path: Path) -> None:
    done = subprocess.run(["sh", "-c", line(tmp_path, "'a b' 7 '' '*' '$x'")], check=False)
    assert done.returncode == 7
    assert (engine / "words").read_text() == "a b\n7\n\n*\n$x\n"
    assert containers(engine) == []


def test_a_container_that_outlives_its_command_is_removed(engine: Path, tmp_path: Path) -> None:
    done = subprocess.run(["sh", "-c", line(tmp_path, "left 3")], check=False)
    assert done.returncode == 3
    assert containers(engine) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_removes_the_container(
    engine: Path, tmp_path: Path, number: signal.Signals
) -> None:
    script = f"exec {line(tmp_path, 'wait')}"
    process = subprocess.Popen([sys.executable, "-c", HEARING, str(int(number)), script])
    (engine / "up").read_text()
    assert len(containers(engine)) == 1
    process.send_signal(number)
    assert process.wait(60) == 143
    assert containers(engine) == []


@pytest.mark.usefixtures("engine")
def test_it_is_one_command_for_launchers_that_put_words_before_it(tmp_path: Path) -> None:
    done = subprocess.run(["sh", "-c", f"env X=1 nice {line(tmp_path, 'x 5')}"], check=False)
    assert done.returncode == 5


def test_a_missing_engine_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = line(tmp_path, "x").replace("docker", "no-such-engine")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    done = subprocess.run(["sh", "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 127
    assert "there is no no-such-engine on " in done.stderr


def test_a_custom_command_is_left_alone(tmp_path: Path) -> None:
    other = Container("custom", "", "x")
    write_guard(tmp_path, other)
    assert guarded("the line", other, str(tmp_path), "E", "0") == "the line"
    assert not (tmp_path / SCRIPT_NAME).exists()


APPTAINER = r"""#!/bin/sh
if [ "$1" = inspect ]; then cat "$3.runscript"; exit; fi
printf '%s\n' "$@"
"""


@pytest.mark.parametrize(
    ("runscript", "verb"),
    [
        ('#!/bin/sh\nexec "$@"\n', "run"),
        ("#!/bin/sh\n\necho 'There is no runscript defined for this container'\n", "exec"),
        (None, "exec"),
    ],
)
def test_an_image_without_a_runscript_is_run_by_exec(
    runscript: str | None, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "my image"
    image.mkdir()
    if runscript is not None:
        (tmp_path / "my image.runscript").write_text(runscript)
    (tmp_path / "apptainer").write_text(APPTAINER)
    (tmp_path / "apptainer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    container = Container("apptainer", str(image), "--nv")
    write_guard(tmp_path, container)
    line = guarded(container.wrap("pool 'a b'", "/run"), container, str(tmp_path), "E", "0")
    done = subprocess.run(["sh", "-c", line], check=True, capture_output=True, text=True)
    words = [verb, "--nv", "--bind", "/run", str(image), "pool", "a b"]
    assert done.stdout.splitlines()[-len(words) :] == words
    assert ("has no runscript" in done.stdout) == (verb == "exec")


def leave(engine: Path, name: str, endpoint: str, block: str) -> None:
    text = f"cep.endpoint={endpoint}\ncep.block={block}\n"
    (engine / "containers" / name).write_text(text)


def test_left_containers_are_found_by_endpoint_and_block(engine: Path) -> None:
    for name, endpoint, block in (
        *(("a", "E", "0"), ("b", "E", "1"), ("c", "E", "10")),
        *(("d", "F", "1"), ("e", "E2", "1")),
    ):
        leave(engine, name, endpoint, block)
    mine = Containers("docker", "E")
    assert mine.end("1") == ["b"]
    assert mine.end("1") == []
    assert mine.end() == ["a", "c"]
    assert containers(engine) == ["d", "e"]


def test_an_engine_that_does_not_answer_is_an_error(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (engine / "docker").write_text("#!/bin/sh\necho no daemon >&2\nexit 1\n")
    with pytest.raises(EngineError, match="no daemon"):
        Containers("docker", "E").end()
    monkeypatch.setenv("PATH", str(engine / "containers"))
    with pytest.raises(EngineError, match="cannot be run"):
        Containers("docker", "E").end()


@pytest.mark.parametrize(
    ("kind", "provider", "tag", "engine"),
    [
        ("docker", "LocalProvider", "ID.LIFE", "docker"),
        ("podman-hpc", "LocalProvider", "ID", "podman-hpc"),
        ("docker", "SlurmProvider", "ID.LIFE", None),
        ("apptainer", "LocalProvider", "ID.LIFE", None),
        ("custom", "LocalProvider", "ID.LIFE", None),
        (None, "LocalProvider", "ID.LIFE", None),
        ("docker", "LocalProvider", "", None),
    ],
)
def test_who_can_leave_containers_on_this_host(
    kind: str | None, provider: str, tag: str, engine: str | None
) -> None:
    settings = HtexSettings(container_type=kind, provider=ComponentSettings(provider, {}))
    assert containers_of(settings, tag) == (engine and Containers(engine, "ID"))
    if engine is None:
        assert end_leftover_containers(settings, tag) == []
