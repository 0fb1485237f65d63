"""What an endpoint would submit, for `cep render`: the door from the command line to the engines.

Starts nothing of the endpoint. One thread.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cep.config.settings import EndpointSettings, HtexSettings
from cep.errors import UsageError
from cep.paths import EndpointPaths

if TYPE_CHECKING:
    from cep.engines.preview import Submission


def submission(paths: EndpointPaths, settings: EndpointSettings) -> Submission:
    """Return what would be submitted for the endpoint's first block.

    Args:
        paths: The endpoint's files.
        settings: Its configuration.

    Raises:
        UsageError: Its engine submits nothing.
        ConfigError: The settings cannot work.
    """
    from cep.agent.state import stored_endpoint_id
    from cep.engines.preview import preview

    engine = _engine(settings)
    with tempfile.TemporaryDirectory(prefix="cep-render-") as scratch:
        return preview(
            engine,
            paths.run.resolve(),
            Path(scratch).resolve(),
            endpoint_id=stored_endpoint_id(paths),
            worker_sets=paths.worker_sets,
        )


def submit_test(paths: EndpointPaths, settings: EndpointSettings) -> str:
    """Ask the scheduler whether it would take the first block's script; return its words.

    Nothing runs. The script is written into the endpoint's run directory for that long, where the
    scheduler can read it.

    Raises:
        UsageError: The engine submits nothing.
        ConfigError: The settings cannot work, or the scheduler refuses the job.
        TemporaryFailure: The scheduler does not answer.
        Unavailable: Its commands are not on this host.
        SoftwareError: A held job could not be deleted.
    """
    from cep.engines.submit_test import ask

    found = submission(paths, settings)
    timeout_s = float(_engine(settings).provider.arguments.get("cmd_timeout", 60))
    with tempfile.TemporaryDirectory(prefix=".submit-test-", dir=paths.root) as folder:
        script = Path(folder) / "script"
        for text in found.scripts.values():
            script.write_text(text, encoding="utf-8")
        return ask(found.provider, found.command, script, timeout_s)


def _engine(settings: EndpointSettings) -> HtexSettings:
    if not isinstance(settings.engine, HtexSettings):
        kind = type(settings.engine).__name__.replace("Settings", "Engine")
        raise UsageError(
            f"The engine of this endpoint is {kind}, which submits nothing.",
            hint="Only a GlobusComputeEngine has blocks.",
        )
    return settings.engine
