"""Run one task: message bytes in, result bytes out, whatever the user's code does in between.

The only thing it cannot answer for is the end of its own process. Runs in workers, and in the
worker threads of the thread engine.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import dill

from cep.errors import CepError, WireError
from cep.wire import envelope, result, task
from cep.wire.lines import Written
from cep.worker import codec, environ, versions
from cep.worker.context import WorkerContext

# The published endpoint refuses a smaller limit; an error's text needs some room anyway.
SMALLEST_RESULT_LIMIT = 128  # characters
_LONGEST_ERROR = 1024 * 1024  # characters of an error's text; tracebacks repeat themselves
_HERE = str(Path(__file__).parent) + os.sep
_TIMEOUT = "GC_TASK_TIMEOUT"
_TIMEOUT_KEY = os.fsencode(_TIMEOUT)


class _Failure(Exception):
    """A failure that we word ourselves: code, text, and sentence for the user."""

    def __init__(self, code: str, text: str, user_message: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.user_message = user_message


class _NotLoaded(Exception):
    """Function or arguments could not be rebuilt, which versions that do not fit may explain."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = cause


def execute(
    body: bytes,
    task_id: str,
    context: WorkerContext,
    result_serializers: Sequence[str] = (),
    *,
    in_thread: bool = False,
) -> bytes:
    """Run a task and return its packed result message.

    Never raises: an exception of the user's function (`SystemExit` and `KeyboardInterrupt`
    included), of its arguments, or of its return value becomes an error result.

    Args:
        body: The task message as it came.
        task_id: UUID text the result is for.
        context: The engine's constants.
        result_serializers: Import paths of strategies for the result, in order; may be empty.
        in_thread: Other tasks run in threads of this process: the task variables are shown to
            this thread only, and the directory is changed only when it is this thread's own.
    """
    began = time.time_ns()
    data: str | Written
    error: tuple[str, str] | None = None
    try:
        try:
            data = _run(body, task_id, context, result_serializers, in_thread)
        except _Failure as exc:
            data, error = exc.text, (exc.code, exc.user_message)
        except _NotLoaded as exc:
            data = f"{_error_text(exc.cause)}\n{versions.note(context.endpoint_versions)}"
            error = (result.REMOTE_EXECUTION_ERROR, result.EXECUTION_ERROR_MESSAGE)
        except BaseException as exc:
            data = _error_text(exc)
            error = (result.REMOTE_EXECUTION_ERROR, result.EXECUTION_ERROR_MESSAGE)
        finally:
            if in_thread:
                environ.clear_task()
        return _packed(task_id, data, error, context, began)
    except BaseException as exc:
        # A KeyboardInterrupt or a late time-out may hit between any two lines above.
        return _packed(
            task_id,
            f"The task ended with {type(exc).__name__} while its result was prepared.",
            (result.REMOTE_EXECUTION_ERROR, result.EXECUTION_ERROR_MESSAGE),
            context,
            began,
        )


def warm_up() -> None:
    """Do once, before a process forks or takes tasks, what else the first task would do."""
    _details("")


def _packed(
    task_id: str,
    data: str | Written,
    error: tuple[str, str] | None,
    context: WorkerContext,
    began: int,
) -> bytes:
    return result.pack_result(
        task_id,
        data,
        details=_details(context.endpoint_id),
        error=error,
        transitions=(
            result.Transition(began, "execution-start", "worker"),
            result.Transition(time.time_ns(), "execution-end", "worker"),
        ),
    )


def _run(
    body: bytes,
    task_id: str,
    context: WorkerContext,
    result_serializers: Sequence[str],
    in_thread: bool,
) -> str | Written:
    _enter_directory(task_id, context, in_thread)
    try:
        message = task.unpack_task(body)
    except WireError as exc:
        raise _unreadable(body, exc) from exc
    try:
        function, arguments, keywords = codec.load_task(
            message.task_buffer, context.allowed_serializers
        )
    except BaseException as exc:
        raise _NotLoaded(exc) from None
    versions.check_function(function)
    seconds = float(environ.look_up(_TIMEOUT, _TIMEOUT_KEY) or 0.0)
    if seconds > 0.0:
        from cep.worker.limits import TimeLimit

        with TimeLimit(seconds):
            value = function(*arguments, **keywords)
    else:
        value = function(*arguments, **keywords)
    data = codec.dump(value, result_serializers)
    if len(data) > context.result_size_limit:
        raise _too_large(data, task_id, context)
    return data


def _enter_directory(task_id: str, context: WorkerContext, in_thread: bool) -> None:
    directory = context.working_dir
    if context.run_in_sandbox:
        directory = os.path.join(directory, task_id)  # noqa: PTH118 (hot path)
    environ.set_task(task_id, directory if context.run_in_sandbox else None, in_thread=in_thread)
    if not environ.may_change_directory(in_thread):
        os.makedirs(directory, mode=0o700, exist_ok=True)  # noqa: PTH103
        return
    if in_thread and environ.is_in(directory):
        return
    try:
        os.chdir(directory)
    except FileNotFoundError:
        os.makedirs(directory, mode=0o700, exist_ok=True)  # noqa: PTH103
        os.chdir(directory)


def _unreadable(body: bytes, exc: CepError) -> _Failure:
    """Tell a message of another type from one that cannot be read, as the published one does."""
    try:
        found, _data = envelope.unpack(body)
    except WireError:
        found = task.MESSAGE_TYPE
    if found == task.MESSAGE_TYPE:
        return _Failure(
            result.REMOTE_EXECUTION_ERROR,
            f"The task message cannot be read. {exc}",
            result.EXECUTION_ERROR_MESSAGE,
        )
    text = f"Non Task-type message received: {found[:64]} ({len(body)} bytes)"
    return _Failure(
        result.COULD_NOT_EXECUTE,
        f"{result.COULD_NOT_EXECUTE}({text!r})",
        f"remote error: {text}",
    )


# -- results above the limit -----------------------------------------------------------------


def _too_large(data: str | Written, task_id: str, context: WorkerContext) -> _Failure:
    size, limit = len(data), context.result_size_limit
    try:
        kept = f"The result is kept on the endpoint's host in {_keep(data, task_id, context)}"
    except OSError as exc:
        kept = f"The result could not be kept in {context.oversized_dir} ({exc.strerror})"
    return _Failure(
        result.MAX_RESULT_SIZE,
        # The first line is what the published endpoint sends.
        f"{result.MAX_RESULT_SIZE}({size}, {limit})\n"
        f"The result has {size} characters and the limit is {limit} (engine key "
        f"'result_size_limit'). {kept}.",
        f"remote error: Task result of {size}B exceeded current limit of {limit}B",
    )


def _keep(data: str | Written, task_id: str, context: WorkerContext) -> str:
    """Write the buffer where its owner can fetch it, for his eyes only; return the path."""
    os.makedirs(context.oversized_dir, mode=0o700, exist_ok=True)  # noqa: PTH103
    name = task_id if envelope.read_uuid(task_id) else re.sub(r"[^0-9A-Za-z-]", "_", task_id)
    path = os.path.join(context.oversized_dir, name)  # noqa: PTH118
    part = f"{path}.{os.getpid()}.part"
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(envelope.to_utf8(str(data)))
        os.replace(part, path)  # noqa: PTH105
    except BaseException:
        os.unlink(part)  # noqa: PTH108
        raise
    return path


# -- errors as text --------------------------------------------------------------------------


def _error_text(exc: BaseException) -> str:
    """The traceback as text, from the first frame that is not ours; safe with hostile objects."""
    try:
        trace = _without_our_frames(exc.__traceback__)
        text = "".join(traceback.format_exception(type(exc), exc, trace))
    except BaseException as nested:
        text = (
            f"{type(exc).__name__}: the exception cannot be shown, its own code raised "
            f"{type(nested).__name__}\n"
        )
    if len(text) > _LONGEST_ERROR:
        half = _LONGEST_ERROR // 2
        text = (
            f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
        )
    return text


def _without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_HERE):
        trace = trace.tb_next
    return trace


# -- where it ran ----------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _details(endpoint_id: str) -> envelope.Encoded:
    """The same in each result, so written as JSON only once."""
    return envelope.Encoded(
        envelope.encode(
            {
                "os": platform.platform(),
                "dill_version": dill.__version__,
                "python_version": platform.python_version(),
                "globus_compute_sdk_version": _sdk_version(),
                "endpoint_id": endpoint_id,
            }
        )
    )


def _sdk_version() -> str:
    """The SDK's version, without importing it."""
    loaded = getattr(sys.modules.get("globus_compute_sdk"), "__version__", None)
    if isinstance(loaded, str):
        return loaded
    from importlib import metadata

    try:
        return metadata.version("globus-compute-sdk")
    except metadata.PackageNotFoundError:
        return "not installed"
