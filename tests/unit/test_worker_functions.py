"""A function seen again is made from its parts: as dill reads it, and shared with no other task."""

from __future__ import annotations

import base64
import itertools
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dill
import pytest

import __main__
from cep.worker import functions

# As in a user's script: each is defined in a namespace of its own, or in `__main__`.
SOURCES = {
    "nothing": """
def f():
    return None
""",
    "documented": """
def f(a: int, b: str = 'x', *, c: float = 1.5) -> list:
    'Says.'
    return [a, b, c]
""",
    "inner": """
def f():
    def g(n):
        return n + 1
    return g(1), (1, (2, b'3')), {4, 5} == {1}
""",
    "recursive": """
def f(n=5):
    return 1 if n < 2 else n * f(n - 1)
""",
    "generator": """
def f():
    yield from range(3)
""",
    "asynchronous": "async def f():\n    return 1\n",
    "lambda": """
f = lambda x, y=2: x + y
""",
    "with constants": """
LIMIT = 7
NAMES = ('a', 'b')
def f():
    return LIMIT, NAMES
""",
    "attributes": """
def f():
    return f.count
f.count = 3
""",
    "renamed": """
def f():
    return 1
f.__name__ = 'other'
f.__qualname__ = 'A.other'
f.__doc__ = 'D'
""",
    "no keyword defaults": """
def f(*, a):
    return a
f.__kwdefaults__ = {}
""",
}
#: What must be read each time, since a task could change it for the next.
CHANGEABLE = {
    "a list as default": """
def f(seen=[]):
    seen.append(1)
    return len(seen)
""",
    "a list in a tuple": """
def f(seen=([],)):
    seen[0].append(1)
    return len(seen[0])
""",
    "a keyword default": """
def f(*, seen={}):
    seen[len(seen)] = 1
    return len(seen)
""",
    "a global list": """
SEEN = []
def f():
    SEEN.append(1)
    return len(SEEN)
""",
    "an attribute": """
def f():
    f.seen.append(1)
    return len(f.seen)
f.seen = []
""",
    "an annotation": """
def f():
    f.__annotations__['a'].append(1)
    return len(f.__annotations__['a'])
f.__annotations__['a'] = []
""",
    "a closure": """
def outer():
    seen = []
    def inner():
        seen.append(1)
        return len(seen)
    return inner
f = outer()
""",
    "another function": """
def g(): pass
def f():
    g.n = getattr(g, 'n', 0) + 1
    return g.n
""",
    "a class": """
class A:
    n = 0
def f():
    A.n += 1
    return A.n
""",
}
#: What only looks as if it were changed for the next.
OWN = {
    "a global number": """
N = 0
def f():
    global N
    N += 1
    return N
""",
    "a new global": """
def f():
    global NEW
    NEW = globals().get('NEW', 0) + 1
    return NEW
""",
    "a number as attribute": """
def f():
    f.n += 1
    return f.n
f.n = 0
""",
    "its defaults": """
def f(n=0):
    f.__defaults__ = (n + 1,)
    return n + 1
""",
    "its keyword defaults": """
def f(*, n=0):
    f.__kwdefaults__['n'] = n + 1
    return n + 1
""",
    "its code": """
def f():
    f.__code__ = (lambda: 2).__code__
    return 1
""",
    "its annotations": """
def f(a: int = 1):
    f.__annotations__['b'] = 1
    return len(f.__annotations__) - 1
""",
}


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    def clear() -> None:
        for kept in (functions._kept, functions._met_once, functions._never):
            kept.clear()

    clear()
    yield
    clear()


def defined(source: str, name: str = "elsewhere") -> Callable[..., Any]:
    space: dict[str, Any] = {"__name__": name}
    exec(source, space)
    return space["f"]  # type: ignore[no-any-return]


def buffer_of(value: object) -> str:
    return "01\n" + base64.b64encode(dill.dumps(value)).decode()


def pickled(buffer: str) -> bytes:
    return base64.b64decode(buffer[3:])


def read(buffer: str) -> Any:
    # A new text each time, as from a message.
    return functions.read("".join(list(buffer)), pickled)


def told(function: Any) -> dict[str, Any]:
    names = ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__")
    more = ("__annotations__", "__dict__", "__code__", "__closure__")
    space = {
        key: "itself" if value is function else value
        for key, value in function.__globals__.items()
        if function.__globals__ is not __main__.__dict__
    }
    return {name: getattr(function, name) for name in names + more} | {"globals": space}


@pytest.mark.parametrize("module", ["elsewhere", "__main__"])
@pytest.mark.parametrize("kind", SOURCES)
def test_it_is_what_dill_reads(kind: str, module: str) -> None:
    buffer = buffer_of(defined(SOURCES[kind], module))
    expected = dill.loads(pickled(buffer))
    read(buffer)
    read(buffer)
    assert buffer in functions._kept
    found = read(buffer)
    assert told(found) == told(expected)
    assert found is not read(buffer)


def test_a_function_of_main_has_the_globals_of_main(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(__main__, "f", None, raising=False)
    exec("def f(): return __name__", __main__.__dict__)
    buffer = buffer_of(__main__.f)
    for _ in range(4):
        assert read(buffer).__globals__ is dill.loads(pickled(buffer)).__globals__
        assert read(buffer).__globals__ is __main__.__dict__
    assert buffer in functions._kept


@pytest.mark.parametrize("kind", CHANGEABLE)
def test_what_could_be_changed_is_read_each_time(kind: str) -> None:
    buffer = buffer_of(defined(CHANGEABLE[kind]))
    assert [read(buffer)() for _ in range(5)] == [1] * 5
    assert not functions._kept


@pytest.mark.parametrize("kind", OWN)
def test_what_a_task_changes_is_its_own(kind: str) -> None:
    buffer = buffer_of(defined(OWN[kind]))
    assert [read(buffer)() for _ in range(5)] == [1] * 5
    assert buffer in functions._kept


class Noticed:
    """Its payload has an effect each time that it is read."""

    count = 0

    def __reduce__(self) -> Any:
        return notice, ()


def notice() -> Callable[[], int]:
    Noticed.count += 1
    return defined(SOURCES["nothing"])


def test_a_payload_that_does_more_is_read_once_for_each_task() -> None:
    buffer = buffer_of(Noticed())
    before = Noticed.count
    for _ in range(5):
        assert read(buffer)() is None
    assert Noticed.count - before == 5
    assert not functions._kept


@pytest.mark.parametrize("name", ["FileType", "type", "CodeType"])
def test_a_payload_that_asks_for_other_types_is_left_to_dill(name: str) -> None:
    load_type = pickle.dumps(dill._dill._load_type, 4)[:-1]
    called = load_type + pickle.dumps(name, 4)[2:-1] + pickle.TUPLE1 + pickle.REDUCE + pickle.STOP
    buffer = "01\n" + base64.b64encode(called).decode()
    expected = dill.loads(called)
    assert [read(buffer) for _ in range(4)] == [expected] * 4
    assert not functions._kept


def test_what_can_be_imported_is_not_copied() -> None:
    buffer = buffer_of(notice)
    assert all(read(buffer) is notice for _ in range(4))


def test_a_broken_payload_fails_each_time_as_with_dill() -> None:
    buffer = "01\n" + base64.b64encode(b"\x80\x04garbage").decode()
    for _ in range(4):
        with pytest.raises(pickle.UnpicklingError):
            read(buffer)


def test_what_comes_once_is_not_kept_and_what_is_kept_is_bounded() -> None:
    for number in range(300):
        read(buffer_of(defined(f"def f(): return {number}")))
    assert not functions._kept
    many = [buffer_of(defined(f"def f(): return {number}")) for number in range(100)]
    for buffer in many * 3:
        read(buffer)
    assert len(functions._kept) <= functions._MOST
    assert [read(buffer)() for buffer in many] == list(range(100))


def test_a_large_one_is_not_kept() -> None:
    buffer = buffer_of(defined(f"def f(): return {'x' * functions._LONGEST!r}"))
    assert [len(read(buffer)()) for _ in range(3)] == [functions._LONGEST] * 3
    assert not functions._kept


def test_the_marks_of_what_came_once_are_bounded() -> None:
    for number in range(functions._MOST * 20):
        functions._met(f"01\n{number}", b"")
    assert len(functions._met_once) <= functions._MOST * 16


def test_threads_get_a_function_each() -> None:
    buffers = [
        buffer_of(defined(OWN["a global number"] + f"# {i}\nf.i = {i}\n")) for i in range(80)
    ]
    wrong: list[object] = []

    def work() -> None:
        for buffer, number in itertools.chain(*[zip(buffers, range(80), strict=True)] * 5):
            function = read(buffer)
            if (function(), function.i) != (1, number):
                wrong.append((function, number))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_source_gets_a_namespace_of_its_own_each_time() -> None:
    source = CHANGEABLE["a global list"]
    assert [functions.from_source("f", source)() for _ in range(4)] == [1] * 4
    with pytest.raises(KeyError):
        functions.from_source("g", source)
    for _ in range(2):
        with pytest.raises(SyntaxError):
            functions.from_source("f", "def f(:")
