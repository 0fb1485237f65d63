"""The 3-way merge: the owner's keys and comments stay, ours are renewed, nothing is lost."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cep.config.document import parse
from cep.errors import ConfigError
from cep.profiles.merge import changed_paths, merge

BASE = "a: 1\n# about b\nb:\n  c: 2\n  d: 3\n"


@pytest.mark.parametrize(
    ("mine", "new", "wanted"),
    [
        (BASE, BASE.replace("1", "9"), BASE.replace("1", "9")),
        (BASE.replace("3", "8"), BASE, BASE.replace("3", "8")),
        (
            BASE.replace("3", "8"),
            BASE.replace("1", "9"),
            BASE.replace("3", "8").replace("1", "9"),
        ),
        (  # neighbouring lines
            BASE.replace("d: 3", "d: 8"),
            BASE.replace("c: 2", "c: 7"),
            BASE.replace("d: 3", "d: 8").replace("c: 2", "c: 7"),
        ),
        (
            BASE + "mine: x # why\n",
            BASE.replace("1", "9"),
            BASE.replace("1", "9") + "mine: x # why\n",
        ),
        (BASE.replace("  d: 3\n", ""), BASE.replace("1", "9"), "a: 9\n# about b\nb:\n  c: 2\n"),
        (BASE, BASE.replace("  d: 3\n", ""), BASE.replace("  d: 3\n", "")),
        (BASE + "mine: 1\n", BASE + "new: 2\n", BASE + "new: 2\nmine: 1\n"),
    ],
)
def test_changes_of_both_sides_come_together_line_by_line(mine: str, new: str, wanted: str) -> None:
    merged = merge(BASE, mine, new)
    assert merged.text == wanted
    assert not merged.comments_lost


def test_where_both_changed_a_key_the_owner_s_value_stays_unless_it_was_asked_for() -> None:
    mine, new = BASE.replace("c: 2", "c: 8"), BASE.replace("c: 2", "c: 9")
    kept = merge(BASE, mine, new)
    assert (kept.text, kept.kept, kept.replaced) == (mine, ("b.c",), ())
    asked = merge(BASE, mine, new, changed_paths(BASE, new))
    assert (asked.text, asked.kept, asked.replaced) == (new, (), ("b.c",))


def test_a_file_that_was_put_in_another_order_is_written_out_and_that_is_told() -> None:
    mine = "b: {d: 3, c: 8, e: 007}\na: 1  # mine\n"
    merged = merge(BASE, mine, BASE.replace("1", "9").replace("d: 3", "d: 4"))
    assert merged.comments_lost
    assert parse(merged.text, "x") == {"b": {"d": 4, "c": 8, "e": 7}, "a": 9}
    assert "e: 007" in merged.text  # as it was written


def test_a_file_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ConfigError):
        merge(BASE, "- 1\n", BASE)


TREES = st.recursive(
    st.sampled_from([None, True, 0, 1, "x", "a\nb\n"]),
    lambda inner: st.dictionaries(st.sampled_from("abcde"), inner, max_size=4),
    max_leaves=8,
)
FILES = st.dictionaries(st.sampled_from("abcdef"), TREES, max_size=5).map(
    lambda tree: yaml.safe_dump(tree, sort_keys=False, default_flow_style=False)
)


@settings(database=None, deadline=None, max_examples=40)
@given(FILES, FILES, FILES)
def test_a_side_that_changed_nothing_gives_way_whole(base: str, mine: str, new: str) -> None:
    assert parse(merge(base, base, new).text, "x") == parse(new, "x")
    assert parse(merge(base, mine, base).text, "x") == parse(mine, "x")
    assert parse(merge(base, mine, mine).text, "x") == parse(mine, "x")
    once = merge(base, mine, new)
    again = merge(new, once.text, new)
    assert parse(again.text, "x") == parse(once.text, "x")
