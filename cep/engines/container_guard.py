"""The script around a container's line: it takes the container away with the block.

A container is a child of its engine, not of the command that asked for it. That command hands
signals on at its best (`--sig-proxy`; documented for containers without a terminal only), and the
first process of a container ignores a SIGTERM that it has no handler for, as a Python that is just
starting or a shell in between. A cancelled block would leave such a container running. So a small
POSIX script in the run directory, which all nodes see, starts it under a name and removes it when
it is told to end. Its labels say whose it is, for what even this cannot end
(`cep.engines.container_leftovers`).

Apptainer and singularity run the workers as children of the block, so they need none of this. But
their `run` gives the command to the image's runscript, and an image that was made without one has a
runscript that says so and ends; there the script takes `exec`. A `custom` command is left alone.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from cep.config.container import CUSTOM
from cep.engines.containers import Container
from cep.errors import EngineError

#: Labels of each container: the endpoint's id, the block's number, and the container's own name.
ENDPOINT_LABEL, BLOCK_LABEL, NAME_LABEL = "cep.endpoint", "cep.block", "cep.name"
SCRIPT_NAME = "container.sh"

SCRIPT = f"""\
#!/bin/sh
# Written by the endpoint at its start. Runs a container that goes when this script goes:
#   sh container.sh ENDPOINT_ID BLOCK IMAGE ENGINE run OPTIONS IMAGE COMMAND
if [ $# -lt 6 ]; then
  echo "usage: container.sh ENDPOINT_ID BLOCK IMAGE ENGINE run WORDS" >&2
  exit 64
fi
endpoint=$1 block=$2 image=$3 engine=$4
shift 5
if ! command -v "$engine" >/dev/null 2>&1; then
  echo "cep: there is no $engine on $(hostname), which runs this endpoint's containers" >&2
  exit 127
fi
case $engine in
apptainer | singularity)
  verb=run
  if [ -e "$image" ]; then
    case $("$engine" inspect --runscript "$image" 2>/dev/null) in
    "" | *"There is no runscript defined for this container"*)
      verb=exec
      echo "cep: $image has no runscript, so the command is run by $engine exec"
      ;;
    esac
  fi
  exec "$engine" $verb "$@"
  ;;
esac
name=cep-$(od -A n -N 8 -t x8 /dev/urandom | tr -d ' \\n')
remove() {{
  found=$("$engine" ps --all --quiet --filter "label={NAME_LABEL}=$name" 2>/dev/null)
  case $engine in podman*) at_once="--time 0" ;; *) at_once= ;; esac
  [ -z "$found" ] || "$engine" rm --force --volumes $at_once $found >/dev/null 2>&1
}}
stop() {{
  trap '' HUP INT TERM
  remove
  # It may still be about to make one, and would wait for one that is deaf to signals.
  kill -KILL "$child" 2>/dev/null
  wait "$child"
  remove
  exit 143
}}
trap stop HUP INT TERM
"$engine" run --rm --name "$name" --label "{NAME_LABEL}=$name" \\
  --label "{ENDPOINT_LABEL}=$endpoint" --label "{BLOCK_LABEL}=$block" "$@" &
child=$!
wait "$child"
status=$?
remove
exit "$status"
"""


def guarded(line: str, container: Container, run_dir: str, endpoint_id: str, block: str) -> str:
    """Return the command that runs a container's line and ends with it.

    Args:
        line: As `Container.wrap` makes it.
        container: Of which kind it is.
        run_dir: Where `write_guard` puts the script.
        endpoint_id: The endpoint.
        block: The block's number.
    """
    if container.type == CUSTOM:
        return line
    script = shlex.quote(f"{run_dir}/{SCRIPT_NAME}")
    words = (shlex.quote(endpoint_id or "-"), shlex.quote(block), container.image)
    return f"/bin/sh {script} {' '.join(words)} {line}"


def write_guard(run_dir: Path, container: Container) -> None:
    """Put the script where `guarded` expects it.

    Raises:
        EngineError: It cannot be written.
    """
    if container.type == CUSTOM:
        return
    path = run_dir / SCRIPT_NAME
    new = path.with_suffix(f".{os.getpid()}")
    try:
        # A shell of an earlier life may still read the old one.
        new.write_text(SCRIPT, encoding="utf-8")
        new.chmod(0o600)
        new.replace(path)
    except OSError as error:
        raise EngineError(f"The script {path} cannot be written: {error.strerror}.") from error
