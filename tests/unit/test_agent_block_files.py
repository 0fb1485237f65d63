"""Which files `logs --block` shows."""

from __future__ import annotations

import os
from pathlib import Path

from cep.agent.block_files import files_of_block
from cep.paths import EndpointPaths


def write(file: Path, at_s: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(file.name)
    os.utime(file, (at_s, at_s))


def test_only_files_of_the_last_block_of_this_number_are_shown(tmp_path: Path) -> None:
    scripts, logs = tmp_path / "submit_scripts", tmp_path / "L-HighThroughputExecutor"
    for name, at_s in (("parsl.L.block-0.100.5", 100), ("parsl.L.block-0.900.5", 900)):
        write(scripts / name, at_s)
        write(scripts / f"{name}.stderr", at_s + 9)
        write(scripts / f"{name}.stdout", at_s + 9)
    write(scripts / "parsl.L.block-10.950.5", 950)
    write(scripts / "cmd_parsl.sh", 950)
    write(logs / "block-0" / "old" / "manager.log", 150)
    write(logs / "block-0" / "new" / "manager.log", 950)
    write(logs / "block-1" / "new" / "manager.log", 950)
    found = files_of_block(EndpointPaths.of(tmp_path), "0")
    assert [str(file.relative_to(tmp_path)) for file in found] == [
        "submit_scripts/parsl.L.block-0.900.5.stderr",
        "submit_scripts/parsl.L.block-0.900.5.stdout",
        "L-HighThroughputExecutor/block-0/new/manager.log",
    ]


def test_a_block_that_never_was_has_no_files(tmp_path: Path) -> None:
    assert files_of_block(EndpointPaths.of(tmp_path), "0") == []
