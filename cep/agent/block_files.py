"""The files that a block has written: its script's output, and the logs of its worker pools."""

from __future__ import annotations

from pathlib import Path

from cep.engines.worker_logs import EXECUTOR_SUFFIX, SCRIPTS, script_of
from cep.paths import EndpointPaths


def files_of_block(paths: EndpointPaths, block: str) -> list[Path]:
    """Files of the last block of this number, to be read in this order; empty when there are none.

    Numbers begin anew with each life of the agent, so older files may have the same number: they
    are told apart by the script, which is written when the block is asked for.

    Args:
        paths: The endpoint.
        block: The block's number.
    """
    found: dict[str, list[Path]] = {}
    scripts = paths.run / SCRIPTS
    for file in scripts.iterdir() if scripts.is_dir() else ():
        script = script_of(file.name)
        if script is not None and script[1] == block:
            found.setdefault(script[0], []).append(file)
    if not found:
        return []
    begun_s, newest = max((min(map(_changed_s, files)), name) for name, files in found.items())
    outputs = sorted(file for file in found[newest] if not _is_script(file))
    pools = sorted(
        log
        for log in paths.run.glob(f"*{EXECUTOR_SUFFIX}/block-{block}/*/*.log")
        if _changed_s(log) >= begun_s
    )
    return [*outputs, *pools]


def _is_script(file: Path) -> bool:
    return not file.name.endswith((".out", ".err", ".stdout", ".stderr"))


def _changed_s(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
