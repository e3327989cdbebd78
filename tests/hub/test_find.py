"""Which entries of the Hub's list are adapters of a base, whatever the server answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from huggingface_hub import ModelInfo

import adaptertools as at
from adaptertools.errors import NotFound, UnknownMethod, Unsupported
from adaptertools.hub import _declared, client, find
from adaptertools.hub.repo import RemoteFile, Repo

BASE = "org/base"
TAG = f"base_model:adapter:{BASE}"
SIBLINGS = [{"rfilename": "adapter_config.json"}, {"rfilename": "adapter_model.safetensors"}]


def entry(name: str, **told: Any) -> dict[str, Any]:
    """Give what the Hub lists of an adapter whose card names the base."""
    return {
        "id": name, "downloads": 1, "likes": 0, "tags": ["peft", TAG], "siblings": SIBLINGS,
        "config": {"peft": {"base_model_name_or_path": BASE, "peft_type": "LORA"}},
        "cardData": {"base_model": BASE, "license": "mit"}, "gated": False, "private": False,
        "createdAt": "2024-01-01T00:00:00.000Z", "lastModified": "2025-01-01T00:00:00.000Z",
    } | told  # fmt: skip


Listing = Callable[..., find.Hits]


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> Listing:
    """Search a server that gives the entries whatever it is asked for, as some hubs do."""

    def search(*rows: dict[str, Any], **how: Any) -> find.Hits:
        class Api:
            def list_models(self, *, limit: int, **options: Any) -> Iterator[ModelInfo]:
                assert options["filter"] == TAG
                assert set(options["expand"]) >= {"config", "siblings", "cardData"}
                return (ModelInfo(**row) for row in rows[:limit])

        monkeypatch.setattr(client, "api", Api)
        return find.adapters_of(BASE, methods=("lora", "ia3", "adalora", "ln_tuning"), **how)

    return search


def test_a_hit_says_what_the_hub_says(listing: Listing) -> None:
    assert listing(entry("a/one", gated="auto", private=True, trendingScore=3)).hits == (
        find.Hit(
            id="a/one", base=BASE, method="lora", downloads=1, likes=0, trending=3, licence="mit",
            gated="auto", private=True, created="2024-01-01T00:00:00+00:00",
            modified="2025-01-01T00:00:00+00:00",
        ),
    )  # fmt: skip


def _config(base: str) -> dict[str, Any]:
    return {"peft": {"base_model_name_or_path": base}}


NO_HITS = {
    "another base": {"config": _config("org/other"), "cardData": None, "tags": []},
    "another base in the card": {"config": {}, "cardData": {"base_model": "org/other"}, "tags": []},
    "a longer name": {"config": _config(f"{BASE}-2"), "cardData": None, "tags": []},
    "a merged model": {"config": {"model_type": "llama"}, "siblings": SIBLINGS[1:]},
    "no files at all": {"config": None, "siblings": []},
    "a name that is none": {"id": "../../etc"},
    "another such name": {"id": "user/repo@main"},
}


@pytest.mark.parametrize("why", NO_HITS)
def test_what_is_no_adapter_of_the_base_is_no_hit(why: str, listing: Listing) -> None:
    found = listing(entry("a/wrong") | NO_HITS[why], entry("a/right"))
    assert [hit.id for hit in found.hits] == ["a/right"]
    assert sum(found.left_out.values()) == (0 if "name" in why and "id" in NO_HITS[why] else 1)


HITS = {
    "by its config alone": {"cardData": None, "tags": []},
    "by its card alone": {"config": None, "tags": []},
    "by one base of several": {"config": None, "cardData": {"base_model": ["x/y", BASE]}},
    "by its tag alone": {"config": {}, "cardData": None},
    "in other letters": {"config": _config(BASE.upper()), "cardData": None, "tags": []},
    "without files": {"siblings": None},
}


@pytest.mark.parametrize("how", HITS)
def test_one_word_for_the_base_is_enough(how: str, listing: Listing) -> None:
    assert [hit.id for hit in listing(entry("a/one") | HITS[how]).hits] == ["a/one"]


def test_a_card_and_a_config_that_differ_are_told(listing: Listing) -> None:
    [hit] = listing(entry("a/one", config=_config("org/base-4bit"))).hits
    assert hit.base == "org/base-4bit"


def test_an_adapter_below_is_named_with_its_folder(listing: Listing) -> None:
    rows = [{"rfilename": f"{n}/adapter_config.json"} for n in ("a/b", "checkpoint-6", "../x")]
    [hit] = listing(entry("a/one", siblings=rows, config=None)).hits
    assert (hit.subfolder, hit.ref) == ("checkpoint-6", "a/one/checkpoint-6")


METHODS = {"LORA": "lora", "IA3": "ia3", "ADALORA": "adalora", "LN_TUNING": "ln_tuning"}


@pytest.mark.parametrize("method", METHODS)
def test_methods_are_told_apart_and_unknown_ones_stay(method: str, listing: Listing) -> None:
    rows = [entry(f"a/{kind}", config={"peft": {"peft_type": kind}}) for kind in METHODS]
    rows += [entry(f"t/{tag}", config={}, tags=[TAG, tag]) for tag in METHODS.values()]
    rows.append(entry("a/unknown", config={}))
    found = listing(*rows, method=METHODS[method], limit=50)
    wanted = {f"a/{method}": METHODS[method], f"t/{METHODS[method]}": METHODS[method]}
    assert {hit.id: hit.method for hit in found.hits} == {**wanted, "a/unknown": ""}
    assert found.left_out == {"are of another method": 6}


KEYS = {"downloads": "downloads", "likes": "likes", "created": "createdAt",
        "modified": "lastModified", "trending": "trendingScore"}  # fmt: skip


@pytest.mark.parametrize("sort", KEYS)
def test_hubs_that_do_not_sort_are_helped(sort: str, listing: Listing) -> None:
    values: list[Any] = [2, None, 10, 0]
    if sort in ("created", "modified"):
        values = [y and f"{y}-02-01T00:00:00.000Z" for y in ("2024", None, "2025", "2020")]
    found = listing(*(entry(f"a/{i}", **{KEYS[sort]: v}) for i, v in enumerate(values)), sort=sort)
    assert [hit.id for hit in found.hits] == ["a/2", "a/0", "a/3", "a/1"]


def test_enough_is_asked_for_however_much_is_left_out(listing: Listing) -> None:
    other = [entry(f"b/{i}", config=None, siblings=[]) for i in range(700)]
    found = listing(*other, *(entry(f"a/{i}") for i in range(10)), limit=3)
    assert (len(found.hits), found.more, found.looked_at) == (3, True, 710)
    found = listing(*other, entry("a/0"), limit=3)
    assert (len(found.hits), found.more) == (1, False)


def test_what_the_list_does_not_tell_is_asked(
    listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some hubs list names and nothing else."""
    asked = []

    def resolve(ref: Any) -> Repo:
        asked.append(ref.repo)
        names = ["adapter_config.json"] if ref.repo != "a/model" else ["config.json"]
        files = {name: RemoteFile(name=name, size=9) for name in names}
        return Repo(id=ref.repo, commit="0" * 40, files=files)

    def config(held: Repo, name: str) -> dict[str, str]:
        return {"base_model_name_or_path": BASE if held.id == "a/right" else "org/other"}

    monkeypatch.setattr(_declared.repo, "resolve", resolve)
    monkeypatch.setattr(_declared, "_config", config)
    found = listing({"id": "a/right"}, {"id": "a/wrong"}, {"id": "a/model"})
    assert [hit.id for hit in found.hits] == ["a/right"]
    assert asked == ["a/right", "a/wrong", "a/model"]
    asked.clear()
    found = listing(*({"id": f"a/{i}"} for i in range(find.LOOKUPS + 5)))
    assert (len(asked) - 1, asked[-1]) == (find.LOOKUPS, BASE)  # at last, if the base is one
    assert found.left_out["could not be looked at"] == 5


def test_what_cannot_be_asked_for() -> None:
    for base in ("s3://bucket/x", "./base", "user/repo/sub"):
        with pytest.raises(NotFound):
            at.search(base)
    with pytest.raises(UnknownMethod, match="Did you mean lora"):
        at.search(BASE, method="lorra")
    with pytest.raises(Unsupported, match="downloads, likes"):
        at.search(BASE, sort="stars")
    with pytest.raises(Unsupported, match="from 1 to 1000"):
        at.search(BASE, limit=0)
