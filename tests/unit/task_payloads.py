"""Task messages for tests: functions travel as source, so workers need not import the tests."""

from __future__ import annotations

import base64
import inspect
import textwrap
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import dill

from cep.model import Task
from cep.wire import buffers, result
from cep.wire.task import pack_task
from cep.worker import codec


def dilled(value: Any, identifier: str = buffers.DILL_DATA) -> str:
    """One buffer as the SDK's dill strategies write it."""
    return identifier + base64.encodebytes(dill.dumps(value)).decode("ascii")


def dumped(value: Any, strategies: Sequence[str] = ()) -> str:
    """A result's buffer as the worker's codec writes it, as text."""
    return str(codec.dump(value, strategies))


def as_source(function: Callable[..., Any]) -> str:
    """One buffer as the SDK's PureSourceTextInspect writes it, from a module-level function."""
    source = textwrap.dedent(inspect.getsource(function))
    return f"{buffers.PURE_TEXT_INSPECT_CODE}{function.__name__}:{source}"


def message(
    function: Callable[..., Any] | str,
    *args: Any,
    task_id: str | None = None,
    **kwargs: Any,
) -> bytes:
    """A packed task message; `function` may be a ready buffer."""
    code = function if isinstance(function, str) else as_source(function)
    packed = buffers.pack_buffers([code, dilled(args), dilled(kwargs)])
    return pack_task(task_id or str(uuid.uuid4()), packed)


def make_task(
    seq: int,
    function: Callable[..., Any] | str,
    *args: Any,
    function_id: str | None = None,
    resource_specification: str | None = None,
    result_serializers: tuple[str, ...] = (),
    **kwargs: Any,
) -> Task:
    """An accepted task. Without `function_id` each function has its own, by name."""
    task_id = str(uuid.uuid4())
    name = function if isinstance(function, str) else function.__qualname__
    return Task(
        seq=seq,
        task_id=task_id,
        function_id=function_id or str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
        body=message(function, *args, task_id=task_id, **kwargs),
        resource_specification=resource_specification,
        result_serializers=result_serializers,
    )


def value_of(packed: bytes) -> Any:
    """The object in a successful result message."""
    opened = result.unpack_result(packed)
    assert not opened.is_error, opened.data
    return codec.load(opened.data)
