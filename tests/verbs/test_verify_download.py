"""Verification of a local copy: what changed, what is missing, what was added; offline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import adaptertools as at
from adaptertools import schema
from adaptertools.errors import Unreadable
from adaptertools.hub import receipt
from adaptertools.hub.receipt import RECEIPT

COPY = {"README.md": b"# card\n", "adapter_config.json": b"{}", "chat/x.jinja": b"{{ x }}"}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Give a local copy with a receipt."""
    folder = tmp_path / "copy"
    for name, data in COPY.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    files = [
        {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in COPY.items()
    ]
    receipt.write(folder, {"ref": "user/repo", "repo": "user/repo", "commit": "0" * 40}, files)
    return folder


CHANGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "flipped": (lambda d: (d / "README.md").write_bytes(b"# care\n"), "VER006", "README.md"),
    "longer": (lambda d: (d / "README.md").write_bytes(b"# cards\n"), "VER006", "README.md"),
    "missing": (lambda d: (d / "README.md").unlink(), "VER007", "README.md"),
    "left": (lambda d: elsewhere(d / "README.md"), "VER007", "README.md"),
    "extra": (lambda d: (d / "note.txt").write_text("x"), "VER008", "note.txt"),
    "pickle": (lambda d: (d / "adapter_model.bin").write_text("x"), "VER008", "adapter_model.bin"),
}  # fmt: skip


def elsewhere(path: Path) -> None:
    """Put a file outside of its folder, and a link in its place."""
    path.rename(path.parent.parent / "outside")
    path.symlink_to("../outside")


@pytest.mark.parametrize("change", CHANGES)
def test_verify_names_what_changed(change: str, copy: Path) -> None:
    good = at.verify(copy)
    assert good.ok
    assert not good.findings
    assert good.facts["bytes"] == sum(map(len, COPY.values()))
    act, code, name = CHANGES[change]
    act(copy)
    report = at.verify(copy)
    assert [(finding.code, finding.place) for finding in report.findings] == [(code, name)]
    assert report.ok is (change == "extra")
    schema.check("report", report.as_json())


RECEIPTS = {
    "no JSON": b"{",
    "another's": b'{"verb": "merge"}',
    "leaves": json.dumps({
        "verb": "download", "version": "1", "source": {"ref": "x", "commit": "y"},
        "files": [{"name": "../outside", "size": 1, "sha256": "0" * 64}],
    }).encode(),
}  # fmt: skip


@pytest.mark.parametrize("case", RECEIPTS)
def test_a_receipt_that_is_none(case: str, tmp_path: Path) -> None:
    (tmp_path / RECEIPT).write_bytes(RECEIPTS[case])
    with pytest.raises(Unreadable, match="is no receipt of a download"):
        at.verify(tmp_path)
