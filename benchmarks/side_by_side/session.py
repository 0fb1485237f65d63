"""What is measured on one endpoint, from its start to its end."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.side_by_side import measure, tasks
from benchmarks.side_by_side.client import AnswersMissing
from benchmarks.side_by_side.endpoints import Endpoint, log_of
from benchmarks.side_by_side.place import Place, place
from benchmarks.side_by_side.sizes import Sizes

Figures = dict[str, float | list[float]]
START_S = 120.0
LOOK_EVERY_S = 0.002
NAP_S = 0.05
WARM_UP = 100
LARGE_BYTES = 1_000_000


class Started:
    """An endpoint between its start and its end, as a context.

    Args:
        endpoint: What to start.
        where: Its place.
        messages: What waits in the queue before.
    """

    def __init__(self, endpoint: Endpoint, where: Place, messages: Sequence[bytes]) -> None:
        self._endpoint = endpoint
        self._place = where
        self._messages = messages
        self._failure: BaseException | None = None
        self._starter = threading.Thread(target=self._start)
        self.began = self.accepted_s = 0.0

    def __enter__(self) -> Started:
        client = self._place.client
        client.lay(self._messages)
        self.began = time.perf_counter()
        self._starter.start()
        try:
            while client.waiting() >= len(self._messages):
                if self._failure is not None or time.perf_counter() - self.began > START_S:
                    raise AnswersMissing(f"it did not start: {self._failure}")
                time.sleep(LOOK_EVERY_S)
            self.accepted_s = time.perf_counter() - self.began
        except BaseException:
            self._end()
            raise
        return self  # at once: answers may be on their way before the command comes back

    def _start(self) -> None:
        try:
            self._endpoint.start(self._place)
        except Exception as exc:
            self._failure = exc

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self._starter.join()
        self._endpoint.stop(self._place)


def measure_all(
    endpoint: Endpoint, url: str, directory: Path, sizes: Sizes, *, first: bool = True
) -> Figures:
    """Everything but the backlog, in one life of the endpoint.

    Args:
        endpoint: Not started.
        url: Of the broker.
        directory: For this life.
        sizes: How much.
        first: Measure memory and tasks of 50 ms as well.

    Raises:
        AnswersMissing: It did not answer all; the text has the end of its log.
    """
    figures: Figures = {}
    with place(url, directory) as where:
        client = where.client
        try:
            no_op = tasks.no_op()
            with Started(endpoint, where, tasks.messages(client, no_op, 1)) as started:
                answered = client.take(1)[0]
                figures["start_accepted_s"] = started.accepted_s
                figures["start_result_s"] = answered - started.began
                client.burst(tasks.messages(client, no_op, WARM_UP))
                if first and endpoint.engine != "echo":
                    time.sleep(sizes.settle_s)
                    figures["pss_mib"] = measure.pss_mib(directory)
                figures |= _repeated(sizes.bursts, lambda: _burst(where, sizes.burst))
                figures |= _singles(where, sizes)
                figures |= _repeated(sizes.bursts, lambda: _large(where, sizes.large))
                if first and endpoint.engine == "gce":
                    figures |= _naps(where, sizes.naps)
        except AnswersMissing as exc:
            raise AnswersMissing(f"{endpoint.name}: {exc}\n{log_of(where)}") from exc
        if client.errors:
            raise AnswersMissing(f"{endpoint.name}: {client.errors} tasks failed\n{log_of(where)}")
    return figures


def _repeated(times: int, work: Callable[[], dict[str, float]]) -> Figures:
    """Each figure of work that is done several times, as a list."""
    found = [work() for _ in range(times)]
    return {key: [one[key] for one in found] for key in found[0]}


def _burst(where: Place, count: int) -> dict[str, float]:
    messages = tasks.messages(where.client, tasks.no_op(), count)
    before = measure.cpu_s(where.directory)
    moments = where.client.burst(messages)
    used = measure.cpu_between(before, measure.cpu_s(where.directory))
    return {"burst_per_s": count / moments[-1], "cpu_s_per_1000": used / count * 1000}


def _singles(where: Place, sizes: Sizes) -> Figures:
    messages = tasks.messages(where.client, tasks.no_op(), sizes.singles)
    times = where.client.one_by_one(messages[: sizes.slow_singles])
    if statistics.median(times) < 0.1:
        times += where.client.one_by_one(messages[sizes.slow_singles :])
    return {"single_ms": [took * 1000 for took in times]}


def _large(where: Place, count: int) -> dict[str, float]:
    """Decimal megabytes of payload per second in each direction, from the first to the last."""
    messages = tasks.messages(where.client, tasks.large(LARGE_BYTES), count)
    moments = where.client.burst(messages)
    return {"large_mb_per_s": count * LARGE_BYTES / 1e6 / moments[-1]}


def _naps(where: Place, count: int, workers: int = 2) -> Figures:
    """Tasks that wait: the share of the time in which both workers had something to do."""
    messages = tasks.messages(where.client, tasks.nap(NAP_S), count)
    took = where.client.burst(messages)[-1]
    return {"naps_of_ideal": count * NAP_S / workers / took}


def measure_backlog(endpoint: Endpoint, url: str, directory: Path, count: int) -> Figures:
    """The rate between the 10 % and the 90 % answer of tasks that waited for the start."""
    with place(url, directory) as where:
        try:
            laid = tasks.messages(where.client, tasks.no_op(), count)
            with Started(endpoint, where, laid):
                moments = where.client.take(count)
                used = sum(measure.cpu_s(directory).values())
                memory = measure.pss_mib(directory)
        except AnswersMissing as exc:
            raise AnswersMissing(f"{endpoint.name}: {exc}\n{log_of(where)}") from exc
    tenth, ninety = count // 10, count * 9 // 10
    rate = (ninety - tenth) / (moments[ninety - 1] - moments[tenth - 1])
    return {
        "backlog_per_s": rate,
        "backlog_cpu_s_per_1000": used / count * 1000,
        "backlog_pss_mib": memory,
    }


def measure_payload(endpoint: Endpoint, url: str, directory: Path, size: int) -> Figures:
    """Megabytes per second each way with payloads of this size: 20 MB, but at most 2,000 tasks."""
    count = max(20, min(2_000, 20_000_000 // size))
    moments = _one_burst(endpoint, url, directory, tasks.large(size), count)
    return {"payload_mb_per_s": count * size / 1e6 / moments[-1]}


def measure_workers(endpoint: Endpoint, url: str, directory: Path, count: int) -> Figures:
    """Tasks of 50 ms per second."""
    moments = _one_burst(endpoint, url, directory, tasks.nap(NAP_S), count)
    return {"naps_per_s": count / moments[-1]}


def _one_burst(
    endpoint: Endpoint, url: str, directory: Path, buffers: str, count: int
) -> list[float]:
    """The moments of the answers to one burst, right after the first task of an endpoint's life."""
    with place(url, directory) as where:
        first = tasks.messages(where.client, tasks.no_op(), 1)
        with Started(endpoint, where, first):
            where.client.take(1)
            return where.client.burst(tasks.messages(where.client, buffers, count))


def measure_idle(endpoints: Sequence[Endpoint], url: str, home: Path, sizes: Sizes) -> list[float]:
    """CPU seconds each uses while all are idle, in the same seconds; after 100 tasks each.

    Raises:
        AnswersMissing: One did not answer all; the text has the end of its log.
    """
    with ExitStack() as stack:
        places = []
        for number, endpoint in enumerate(endpoints):
            where = stack.enter_context(place(url, home / f"i{number}"))
            first = tasks.messages(where.client, tasks.no_op(), 1)
            stack.enter_context(Started(endpoint, where, first))
            places.append(where)
        for endpoint, where in zip(endpoints, places, strict=True):
            try:
                where.client.take(1)
                where.client.burst(tasks.messages(where.client, tasks.no_op(), WARM_UP))
            except AnswersMissing as exc:
                raise AnswersMissing(f"{endpoint.name}: {exc}\n{log_of(where)}") from exc
        time.sleep(sizes.settle_s)
        before = [measure.cpu_s(where.directory) for where in places]
        time.sleep(sizes.idle_s)
        after = [measure.cpu_s(where.directory) for where in places]
    return [measure.cpu_between(one, two) for one, two in zip(before, after, strict=True)]
