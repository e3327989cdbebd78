"""Patterns of module names: readable, and exactly the names that they were folded from."""

import re
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adaptertools import targets
from adaptertools.targets import fold, kind, place

NUMBERS = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
WORDS = re.compile(r"((?:[^\\{}]|\\.)*)(?:\{((?:[^\\{}]|\\.)*)\}((?:[^\\{}]|\\.)*))?", re.S)


def expand(pattern: str) -> list[str]:
    """Give the names that a pattern stands for; written from its description alone."""
    return [".".join(parts) for parts in product(*map(options, pattern.split(".")))]


def options(part: str) -> list[str]:
    if NUMBERS.fullmatch(part) and not part.isdigit():
        ends = [run.partition("-")[::2] for run in part.split(",")]
        return [str(n) for a, b in ends for n in range(int(a), int(b or a) + 1)]
    start, inner, end = WORDS.fullmatch(part).groups()
    words = [""] if inner is None else re.split(r"(?<!\\)((?:\\\\)*),", inner)
    if len(words) > 1:  # an even number of backslashes before a comma belongs to the word
        words = [a + b for a, b in zip(words[::2], [*words[1::2], ""], strict=True)]
    return [unescaped(start + word + (end or "")) for word in words]


def unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.S)


def layers(count: range | list[int], *modules: str) -> list[str]:
    return [f"model.layers.{i}.{module}" for i in count for module in modules]


READABLE = {
    "attention": (layers(range(24), "self_attn.q_proj", "self_attn.v_proj"),
                  ["model.layers.0-23.self_attn.{q,v}_proj"]),
    "gaps": (layers([0, 1, 2, 3, 5, *range(7, 24)], "mlp.up_proj"),
             ["model.layers.0-3,5,7-23.mlp.up_proj"]),
    "two places": (layers(range(2), "self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"),
                   ["model.layers.0-1.mlp.{down,up}_proj", "model.layers.0-1.self_attn.q_proj"]),
    "what they begin with": ([f"h.{i}.attn.c_{x}" for i in range(3) for x in ("attn", "proj")],
                             ["h.0-2.attn.c_{attn,proj}"]),
    "experts": ([f"l.{i}.experts.{e}.w{k}" for i in range(4) for e in range(8) for k in (1, 2, 3)],
                ["l.0-3.experts.0-7.{w1,w2,w3}"]),
    "experts of which one is missing": (
        [f"l.{i}.experts.{e}.w" for i in range(4) for e in range(8) if (i, e) != (2, 3)],
        ["l.0-1,3.experts.0-7.w", "l.2.experts.0-2,4-7.w"]),
    "layers that differ": (layers(range(3), "q") + layers([1, 2], "v"),
                           ["model.layers.0-2.q", "model.layers.1-2.v"]),
    "towers": ([f"{t}.0.fc{n}" for t in ("encoder", "decoder") for n in (1, 2)],
               ["{decoder,encoder}.0.{fc1,fc2}"]),
    "one": (["lm_head"], ["lm_head"]),
    "none": ([], []),
    "no number": (["l.01.q", "l.1.q"], ["l.01.q", "l.1.q"]),
    "signs": (["a.0-3", "a.{b,c}", "a\\"], ["a.{0\\-3,\\{b\\,c\\}}", "a\\\\"]),
}  # fmt: skip


@pytest.mark.parametrize("case", READABLE)
def test_readable(case: str) -> None:
    names, patterns = READABLE[case]
    assert list(fold(names)) == patterns
    assert sorted(name for pattern in patterns for name in expand(pattern)) == sorted(names)


PART = st.one_of(
    st.integers(0, 12).map(str),
    st.sampled_from(["q_proj", "k_proj", "_proj", "mlp", "experts", "a_b_c", "a_c"]),
    st.text("ab_0123-,{}\\٣", max_size=5),
    st.text(max_size=4),
)
NAME = st.lists(PART, min_size=1, max_size=7).map(".".join)


@given(st.sets(NAME, max_size=40))
@example({"a.1,2", "a.1.2", "a.{1,2}", "a.1-2", "a.\\", "a.\\\\,", "a.,"})
@example(
    {f"{a}.{b}.{c}.{d}.{e}" for a in "12" for b in "12" for c in "1" for d in "3" for e in "45"}
)
def test_patterns_stand_for_exactly_the_names(names: set[str]) -> None:
    expanded = [name for pattern in fold(names) for name in expand(pattern)]
    assert sorted(expanded) == sorted(names)


@given(
    st.sets(st.tuples(st.integers(0, 5), st.integers(0, 3), st.sampled_from("qkv")), max_size=60)
)
def test_grids_with_holes(points: set[tuple[int, int, str]]) -> None:
    names = [f"l.{a}.experts.{b}.{c}" for a, b, c in points]
    assert sorted(n for p in fold(names) for n in expand(p)) == sorted(names)


def test_names_that_are_too_long_or_too_many_stand_for_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = ".".join(["1"] * 100_000)
    assert set(fold([long, "a.0", "a.1"])) == {long, "a.0-1"}
    monkeypatch.setattr(targets, "MOST_PATTERNS", 2)
    assert fold(["a.q", "a.k", "a.v"]) == ("a.k", "a.q", "a.v")
    assert fold(["a.q", "a.k"]) == ("a.{k,q}",)


def test_kind_and_place() -> None:
    name = "model.layers.17.experts.3.w1"
    assert (kind(name), place(name)) == ("model.layers.*.experts.*.w1", 17)
    assert (kind("lm_head.01"), place("lm_head.01")) == ("lm_head.01", None)
