"""Cycles of objects: not looked for while an agent loads, and looked for again afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from cep.cycles import do_not_look_while_loading, look_again


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


class _Ring:
    """An object that holds only itself, and tells when it goes."""

    gone = 0

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        type(self).gone += 1


def test_nothing_is_looked_at_while_loading() -> None:
    do_not_look_while_loading()
    assert not gc.isenabled()


def test_what_was_loaded_is_left_alone_and_what_comes_is_looked_at() -> None:
    do_not_look_while_loading()
    before = gc.get_freeze_count()
    look_again()
    assert gc.get_freeze_count() > before
    _Ring()
    assert gc.isenabled()
    gone = _Ring.gone
    gc.collect()
    assert _Ring.gone == gone + 1


def test_a_process_that_never_stopped_looking_goes_on_as_before() -> None:
    before = gc.get_freeze_count()
    look_again()
    assert gc.isenabled()
    assert gc.get_freeze_count() == before
