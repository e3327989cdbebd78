"""A card is mended where it lacks something, and nowhere else; YAML's own reader is the judge."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from adaptertools.errors import Unreadable, Unsupported
from adaptertools.verbs._upload_card import BEGIN, Facts, written
from adaptertools.verbs._upload_front import Front

BASE = "example-org/tiny-llama"
TABLE = (("method", "LORA"), ("rank", "8"))


def facts(**more: Any) -> Facts:
    given = {"repo": "user/repo", "base": BASE, "relation": "adapter", "library": "peft",
             "tags": ("lora", "adaptertools"), "table": TABLE, "task": "CAUSAL_LM"}  # fmt: skip
    return Facts(**{**given, **more})


def meta(card: str) -> dict[str, Any]:
    """Let huggingface_hub read the front matter."""
    read: dict[str, Any] = ModelCard(card).data.to_dict()
    return read


def mended(old: str, **more: Any) -> str:
    """Mend a card, and see that doing it again changes nothing."""
    card, _ = written(old, facts(**more))
    again, changes = written(card, facts(**more))
    assert again == card
    assert changes == []
    return card


def test_a_card_where_there_is_none() -> None:
    card, changes = written(None, facts(licence={"license": "mit"}))
    assert changes == []
    assert meta(card) == {
        "base_model": BASE, "base_model_relation": "adapter", "library_name": "peft",
        "license": "mit", "tags": ["lora", "adaptertools"],
    }  # fmt: skip
    assert "| rank | 8 |" in card
    assert 'PeftModel.from_pretrained(model, "user/repo")' in card
    assert mended(card) == card


OWN = """---
# my notes: keep these
training:   # of the run
- name: x
  results: [ {loss: 1.50} ]
tags: [ Lora, 'fine-tune' ]   # two of them
datasets:
    - a/b
license: other
license_name: my-own
date: 2024-01-02
---
# Title

Trained for 3 epochs on `a/b` with lr 1e-4.


```
---
not: front matter
---
```
"""


def test_own_words_stay(tmp_path: Path) -> None:
    card = mended(OWN, licence={"license": "mit"})
    for line in OWN.splitlines():
        if not line.startswith("tags"):
            assert line in card.splitlines()
    assert "tags: [ Lora, 'fine-tune' , adaptertools]   # two of them" in card
    held, was = meta(card), meta(OWN)
    assert {k: v for k, v in held.items() if k in was and k != "tags"} == {
        k: v for k, v in was.items() if k != "tags"
    }
    assert held["license"] == "other"
    body = OWN.split("---\n", 2)[2].rstrip("\n")
    assert card.split("---\n", 2)[2].startswith(body + "\n\n" + BEGIN)


@pytest.mark.parametrize(
    ("front", "tags"),
    [
        ("tags:\n- a\n- b\nlicense: mit\n", ["a", "b"]),
        ("tags:\n  - a   # why\n  - b   # and\n\n# next\nlicense: mit\n", ["a", "b"]),
        ("tags: [a, b,]\n", ["a", "b"]),
        ("tags: [\n  a,\n  b\n]\nlicense: mit\n", ["a", "b"]),
        ("tags: []\nlicense: mit\n", []),
        ("tags:\nlicense: mit\n", []),
        ("tags: a\n", ["a"]),
        ('tags: "a"   # one\n', ["a"]),
        ("license: mit\ntags:\n- a", ["a"]),
        ("license: mit", []),
        ("", []),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_in_every_style(front: str, tags: list[str], end: str) -> None:
    front = front if not front or front.endswith("\n") else front + "\n"
    old = f"---\n{front}---\nwords\n".replace("\n", end)
    card = mended(old)
    assert card.count("\r\n") == (card.count("\n") if end == "\r\n" else 0)
    held = yaml.safe_load(card.split("---")[1])
    assert held["tags"] == [*tags, "lora", "adaptertools"]
    assert held["base_model"] == BASE
    comments = [line for line in front.splitlines() if "#" in line]
    assert all(any(c.split("#")[1] in line for line in card.splitlines()) for c in comments)


@pytest.mark.parametrize(
    "front",
    [
        "base_model: /srv/me/llama\n",
        "base_model: '/srv/me/llama' # mine\n",
        "base_model:\n- /srv/me/llama\n",
        "base_model: [/srv/me/llama]\n",
    ],
)
def test_a_path_gives_way_to_the_base(front: str) -> None:
    old = f"---\n{front}tags:\n- base_model:adapter:/srv/me/llama\n- x\n---\n"
    card = mended(old, forced=True, replaced="/srv/me/llama")
    assert "/srv" not in card
    held = meta(card)
    assert held["base_model"] in (BASE, [BASE])
    assert held["tags"] == [f"base_model:adapter:{BASE}", "x", "lora", "adaptertools"]


@pytest.mark.parametrize(
    ("old", "forced", "new"),
    [
        ("base_model: other/model\n", True, BASE),
        ("base_model: other/model\n", False, "other/model"),
        ("base_model:\n  - other/model\n  - more/models\n", True, BASE),
        ("base_model: Example-Org/tiny-llama\n", True, "Example-Org/tiny-llama"),
        ("base_model: ./checkpoints/x\n", False, BASE),
        ("base_model: ''\n", False, BASE),
        ("base_model:\nlicense: mit\n", False, BASE),
        ("base_model: [x/y, example-org/tiny-llama]\n", True, ["x/y", "example-org/tiny-llama"]),
    ],
)
def test_the_base_that_is_named(old: str, forced: bool, new: Any) -> None:
    assert meta(mended(f"---\n{old}---\n", forced=forced))["base_model"] == new


def test_what_peft_pushes_is_mended() -> None:
    old = "---\nlibrary_name: transformers\ntags: []\n---\n\n# Model Card for Model ID\n"
    held = meta(mended(old))
    assert (held["library_name"], held["base_model"]) == ("peft", BASE)
    assert meta(mended("---\nlibrary_name: diffusers\n---\n"))["library_name"] == "diffusers"


def test_the_relation_is_that_of_an_adapter() -> None:
    wrong = "---\nbase_model_relation: finetune\n---\n"
    assert meta(mended(wrong))["base_model_relation"] == "adapter"
    kept = mended(wrong, relation="merge", library="transformers", table=())
    assert meta(kept)["base_model_relation"] == "finetune"
    ours = mended(wrong, relation="merge", library="transformers", table=(), own=True)
    assert meta(ours)["base_model_relation"] == "merge"


def test_the_table_is_written_where_it_was() -> None:
    card = mended("---\nlicense: mit\n---\nabove\n") + "\nbelow\n"
    new, changes = written(card, facts(table=(("rank", "16"),)))
    assert changes == ["the table of the adapter"]
    assert new == card.replace("| method | LORA |\n| rank | 8 |", "| rank | 16 |")


@pytest.mark.parametrize("value", ["yes", "1e3", "a: b", "naïve/ümlaut", "[x", "null", "a #b", "'"])
def test_odd_words_are_quoted(value: str) -> None:
    front = Front("---\nlicense: mit\n---\n")
    front.fill("base_model", value)
    front.extend("tags", [value])
    held = yaml.safe_load(front.text().split("---")[1])
    assert held == {"license": "mit", "base_model": value, "tags": [value]}


@pytest.mark.parametrize(
    "front",
    [
        "tags: [a\n",
        "- a\n- b\n",
        "just words\n",
        "a: &x [1]\nb: *x\n",
        "a: !!python/name:os.system\n",
    ],
)
def test_front_matter_that_is_no_map(front: str) -> None:
    with pytest.raises(Unreadable, match=r"README\.md"):
        written(f"---\n{front}---\n", facts())


@pytest.mark.parametrize("front", ["{license: mit}\n", " license: mit\n", "tags: !!set {a, b}\n"])
def test_what_cannot_be_mended_in_place_is_told(front: str) -> None:
    with pytest.raises(Unsupported, match=r"Write there yourself: .*base_model: example-org"):
        written(f"---\n{front}---\n", facts())


def test_a_card_without_front_matter_gets_one() -> None:
    old = "\ufeff# Title\n\nwords --- and\n\n---\n\nmore\n"
    card = mended(old)
    assert meta(card.removeprefix("\ufeff"))["base_model"] == BASE
    assert old.removeprefix("\ufeff").rstrip() in card
    assert card.startswith("\ufeff---\n")
