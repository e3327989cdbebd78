"""What `verify` is given: a folder without a receipt, a damaged one, or a damaged merge."""

from pathlib import Path
from typing import Any

import pytest

from tests import handmade
from tests.cli import DEFAULT, assert_refused, merge, run

Q = "model.layers.0.self_attn.q_proj.weight"
RECEIPTS: dict[str, Any] = {
    "empty": {},
    "a list": [],
    "another verb": {"verb": "stack"},
    "nothing but a verb": {"verb": "merge"},
    "of other kinds": {"verb": "merge", "options": 5, "adapters": 5, "base": 5},
}


@pytest.mark.parametrize("case", RECEIPTS)
def test_verify_refuses_what_is_no_receipt(case: str, tmp_path: Path) -> None:
    handmade.write_json(tmp_path / "adaptertools.json", RECEIPTS[case])
    assert_refused(run("verify", tmp_path), "adaptertools.json", "receipt")


@pytest.mark.parametrize(
    ("key", "value"), [("options", {"surplus": 1}), ("options", {"dtype": 5}), ("base", {})]
)
def test_verify_refuses_a_damaged_receipt(key: str, value: Any, street: Path) -> None:
    assert merge(street, DEFAULT + " --quiet").code == 0
    handmade.change_json(street / "out" / "adaptertools.json", **{key: value})
    assert_refused(run("verify", street / "out"), "adaptertools.json")


def test_verify_without_receipt_base_or_folder(street: Path) -> None:
    assert_refused(run("verify", street / "base"), "is not there", "adaptertools merge")
    assert_refused(run("verify", street / "nothing"), "no such folder")
    assert merge(street, DEFAULT + " --quiet").code == 0
    (street / "base").rename(street / "moved")
    assert_refused(run("verify", street / "out"), "no such folder", "base")
    assert run("verify", street / "out", "--base", street / "moved", "-q").code == 0


def test_verify_of_a_damaged_merge_finds_it(street: Path) -> None:
    assert merge(street, DEFAULT + " --quiet").code == 0
    written = street / "out" / "model.safetensors"
    handmade.change_tensors(written, lambda tensors: {**tensors, Q: tensors[Q] + 1})
    done = run("verify", street / "out", "--quiet")
    assert (done.code, done.err) == (1, "")
    assert "FAILED" in done.out
    assert Q in done.out
