"""What control groups say of kills for want of memory, in both of their forms.

The files are written here, as the kernel writes them; a real kill is in the integration tests.
"""

from __future__ import annotations

from pathlib import Path

from cep.engines.memory_limit import MemoryLimit

V2 = "36 25 0:31 {top} {at} rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "36 25 0:31 {top} {at} rw,nosuid - cgroup cgroup rw,memory\n"


def limit(tmp_path: Path, own: str, mounts: str) -> MemoryLimit:
    (tmp_path / "own").write_text(own)
    (tmp_path / "mounts").write_text(mounts)
    return MemoryLimit(tmp_path / "own", tmp_path / "mounts")


def test_a_kill_is_told_once_with_the_limit(tmp_path: Path) -> None:
    group = tmp_path / "cg" / "system.slice" / "one.service"
    group.mkdir(parents=True)
    events = group / "memory.events"
    events.write_text("low 0\nmax 17\noom 1\noom_kill 2\noom_group_kill 0\n")
    (group / "memory.max").write_text("209715200\n")
    found = limit(
        tmp_path, "0::/system.slice/one.service\n", V2.format(top="/", at=tmp_path / "cg")
    )
    assert found.killed() == ""  # those were of a time before
    events.write_text("low 0\nmax 30\noom 2\noom_kill 3\noom_group_kill 0\n")
    assert "memory limit of 209715200 bytes" in found.killed()
    assert found.killed() == ""


def test_the_older_form_below_the_top_of_a_container(tmp_path: Path) -> None:
    group = tmp_path / "memory" / "one"
    group.mkdir(parents=True)
    control = group / "memory.oom_control"
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    (group / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    own = "9:name=systemd:/x\n4:memory:/docker/abc/one\n0::/y\n"
    found = limit(tmp_path, own, V1.format(top="/docker/abc", at=tmp_path / "memory"))
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    said = found.killed()
    assert "memory limit, so the kernel killed one of them" in said


def test_a_group_of_which_nothing_is_to_be_read_has_killed_nobody(tmp_path: Path) -> None:
    outside = V1.format(top="/other", at=tmp_path)
    assert limit(tmp_path, "4:memory:/one\n0::/\n", outside + "garbage\n - \n").killed() == ""
    assert MemoryLimit(tmp_path / "none", tmp_path / "none").killed() == ""
    assert MemoryLimit().killed() == ""
