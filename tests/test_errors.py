"""Each error is also the standard one that it replaces, pickles, and prints on one line."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptertools import errors
from adaptertools.errors import AdapterToolsError, first, shown

STANDARD = {
    errors.NotFound: LookupError,
    errors.Unreadable: ValueError,
    errors.UnknownFormat: ValueError,
    errors.UnknownMethod: ValueError,
    errors.Mismatch: ValueError,
    errors.Unsupported: NotImplementedError,
    errors.Unsafe: PermissionError,
    errors.HubError: OSError,
}
every_error = pytest.mark.parametrize("kind", STANDARD, ids=lambda kind: kind.__name__)


def subclasses(kind: type) -> set[type]:
    return {kind}.union(*(subclasses(each) for each in kind.__subclasses__()))


def test_the_tree_is_complete() -> None:
    every = subclasses(AdapterToolsError) - {AdapterToolsError}
    assert {kind for kind in every if kind.__module__ == errors.__name__} == STANDARD.keys()
    assert all(any(issubclass(kind, leaf) for leaf in STANDARD) for kind in every)
    assert issubclass(errors.UnknownFormat, errors.Unreadable)
    assert issubclass(errors.UnknownMethod, errors.Unreadable)


@every_error
def test_is_the_standard_error_and_says_what_it_was_told(kind: type[Exception]) -> None:
    error = kind("q_proj: 'a' is missing.")
    assert isinstance(error, STANDARD[kind])
    assert isinstance(error, AdapterToolsError)
    assert str(error) == "q_proj: 'a' is missing."
    assert str(kind()) == kind.__name__


@every_error
def test_pickles_with_its_notes(kind: type[Exception]) -> None:
    error = kind("what, where")
    error.add_note("next step")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, "what, where")
    assert again.__notes__ == ["next step"]


@given(st.text())
def test_shown_is_one_printable_line(text: str) -> None:
    seen = shown(text)
    assert seen.isprintable()
    assert len(seen) <= 200
    seen.encode()
    if text.isprintable() and len(text) <= 200:
        assert seen == text


@pytest.mark.parametrize(
    ("name", "seen"),
    [("a\nb", r"a\nb"), ("\x1b[31mred", r"\x1b[31mred"), ("\u202eevil", r"\u202eevil"),
     ("\ud800", r"\ud800"), ("\r\t\0", r"\r\t\x00"), ("слой.вес", "слой.вес"), (None, "None")],
)  # fmt: skip
def test_shown_escapes(name: object, seen: str) -> None:
    assert shown(name) == seen


def test_first_names_some_and_counts_the_others() -> None:
    assert first([]) == ""
    assert first(["a", "b"]) == "a, b"
    assert first("abcdefg") == "a, b, c, d, e and 2 more"
    assert first(iter("abc"), 2) == "a, b and 1 more"
    assert first(["a\n"]) == r"a\n"
