"""What the endpoint says of itself: status reports to the service, `status.json` to its owner."""

from __future__ import annotations

import getpass
import grp
import json
import os
import platform
import socket
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from cep.config.settings import EndpointSettings
from cep.model import EngineStatus
from cep.wire.status import pack_status_report


class Reporter:
    """Composes status reports; keeps what does not change during the agent's life."""

    def __init__(self, endpoint_id: str, settings: EndpointSettings) -> None:
        self._endpoint_id = endpoint_id
        self._period_s = settings.heartbeat_period_s
        started = time.time()
        # Names of the published endpoint's `ep_info`.
        self._info: dict[str, Any] = {
            "posix_ppid": os.getppid(),
            "posix_username": _user_name(),
            "posix_uid": os.getuid(),
            "posix_gid": os.getgid(),
            "posix_groups": [_group(gid) for gid in os.getgroups()],
            "posix_pid": os.getpid(),
            "posix_sid": os.getsid(0),
            "config_raw": settings.raw_text,
            "start_iso": datetime.fromtimestamp(started, timezone.utc).isoformat(),
            "start_unix": int(started),
        }

    def change(self, settings: EndpointSettings) -> None:
        """Show this configuration from the next report on."""
        self._info["config_raw"] = settings.raw_text

    def alive(self, engine: EngineStatus) -> bytes:
        """The regular report."""
        return self._pack({**engine.report, **self._info, "active": True}, self._period_s)

    def last(self, engine: EngineStatus) -> bytes:
        """The last report: a period of 0 says `offline at once`."""
        return self._pack({**engine.report, **self._info, "active": False}, 0)

    def failed(self, text: str) -> bytes:
        """The report of a failed start; the service fails the waiting futures with the text."""
        return self._pack({"error": text, "active": False}, 3)

    def _pack(self, state: Mapping[str, Any], period_s: float) -> bytes:
        period = int(period_s) if float(period_s).is_integer() else period_s
        return pack_status_report(self._endpoint_id, {**state, "heartbeat_period": period})


def registration_metadata(settings: EndpointSettings, spoken_version: str) -> dict[str, Any]:
    """The `metadata` of a registration: the 2.x names, and the raw text as 4.x sends it."""
    return {
        "endpoint_version": spoken_version,
        "python_version": platform.python_version(),
        "hostname": socket.gethostname(),
        "local_user": _user_name(),
        "config": json.loads(json.dumps(yaml.safe_load(settings.raw_text), default=str)),
        "endpoint_config": settings.raw_text,
    }


def write_atomically(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a small JSON file so that a reader sees the old or the new one, never a part."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a passwd entry, as in some containers
        return str(os.getuid())


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
