"""Which rank and alpha a module gets: PEFT's own matching of patterns is the oracle."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from adaptertools.errors import AdapterToolsError, Unreadable, Unsafe
from adaptertools.patterns import pattern_value

WORDS = ("model", "layers", "0", "1", "10", "self_attn", "q_proj", "proj", "v_proj", "mlp", "q")
names = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(".".join)
PIECES = (*WORDS, ".", r"\.", r"\d", "[01]", "^", "$", "|", "(?:q|v)_proj", "_", ".?", r"\w")
OPEN = (".*", r"\d+", "")  # at most three of these: more are refused
patterns = st.one_of(
    names,
    st.tuples(
        st.sampled_from(OPEN), st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
        st.sampled_from(OPEN), st.sampled_from(WORDS),
    ).map("".join),
)  # fmt: skip


@settings(deadline=None, max_examples=250)
@given(names, st.lists(patterns, max_size=4, unique=True))
def test_the_pattern_is_the_one_that_peft_takes(name: str, keys: list[str]) -> None:
    config = {"rank_pattern": {key: number for number, key in enumerate(keys, 1)}}
    expected = config["rank_pattern"].get(get_pattern_key(keys, name), 0)
    assert pattern_value(config, "rank_pattern", name, 0) == expected


@pytest.mark.parametrize(
    ("name", "keys", "taken"),
    [
        ("model.layers.1.q_proj", ["q_proj", "layers.1.q_proj"], "q_proj"),
        ("model.layers.1.q_proj", ["layers.0.q_proj", "1.q_proj"], "1.q_proj"),
        ("model.layers.11.q_proj", ["1.q_proj"], None),
        ("q_proj", ["q_proj"], "q_proj"),
        ("my_q_proj", ["q_proj"], None),
        ("model.q_proj.x", ["q_proj"], None),
        ("model.layers.1.q_proj", [r"model\.layers\.\d+\.q_proj"], r"model\.layers\.\d+\.q_proj"),
        ("model.q_proj", ["k|q_proj"], "k|q_proj"),
        ("model.q_proj", ["", "q_proj"], "q_proj"),
    ],
)
def test_matching_by_example(name: str, keys: list[str], taken: str | None) -> None:
    values = {key: number for number, key in enumerate(keys, 1)}
    assert pattern_value({"alpha_pattern": values}, "alpha_pattern", name, 0) == values.get(
        taken, 0
    )
    assert get_pattern_key(keys, name) == (taken or name)


@settings(deadline=None, max_examples=200)
@given(st.text("ab(|)*+?{},0123.^$\\", max_size=14))
def test_any_pattern_ends_or_is_refused(pattern: str) -> None:
    name = "a" * 60 + ".b"
    try:
        value = pattern_value({"rank_pattern": {pattern: 3}}, "rank_pattern", name, 2)
    except AdapterToolsError as error:
        value = type(error)
    assert value in (2, 3, Unsafe, Unreadable)
