"""What the command line shows of an update's survival: table, plot, JSON."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adaptertools.cli import _retention
from adaptertools.retention import Retention
from adaptertools.rounding import Rounding
from tests.cli import Outcome, assert_refused, contents, run

PNG = b"\x89PNG\r\n\x1a\n"


def rounding(tensor: str, kept: float = 0.996, **more: Any) -> Rounding:
    fields: dict[str, Any] = {
        "nearest": 0.021, "noise": 0.048, "in_band": 0.1, "moved": 0.03, "clipped": 2, "energy": 1.0
    }  # fmt: skip
    retention = Retention(kept=kept, **fields | more)
    return Rounding(
        tensor=tensor, max_error=0.1, mean_error=0.01, swallowed=0.9, update_norm=0.0123,
        measured=9, retention=retention,
    )  # fmt: skip


def test_a_line_per_kind_of_module() -> None:
    said = [
        rounding(f"model.layers.{i}.{m}.weight") for i in range(3) for m in ("q_proj", "o_proj")
    ]
    head, *rows = _retention.table(said)
    assert [row.split()[:2] for row in rows] == [["o_proj", "3"], ["q_proj", "3"]]
    assert [*head.split()] == [
        "module",
        "tensors",
        "update",
        "nearest",
        "kept",
        "in",
        "band",
        "noise",
        "moved",
        "clipped",
    ]
    assert rows[0].split()[2:5] == ["1.23%", "2.1%", "99.6%"]
    assert rows[0].split()[-4:] == ["10%", "4.8%", "3.0%", "6"]
    assert max(len(row) for row in (head, *rows)) <= 100


def test_medians_and_what_is_not_known() -> None:
    said = [rounding(f"a.{i}.up.weight", kept, nearest=None, in_band=None)
            for i, kept in enumerate((0.1, 0.9, 0.5))]  # fmt: skip
    (row,) = _retention.table(said)[1:]
    assert row.split()[3:5] == ["-", "50.0%"]
    assert row.split()[5] == "█" * 10 + "·" * 10


def test_nothing_packed_no_table() -> None:
    plain = Rounding(
        tensor="a", max_error=0.1, mean_error=0.01, swallowed=0.9, update_norm=0.01, measured=9
    )
    assert _retention.table([]) == []
    assert _retention.table([plain]) == []
    assert len(_retention.table([plain, rounding("b.weight")])) == 2


@pytest.mark.parametrize(
    ("share", "full"), [(0, 0), (0.5, 10), (0.974, 19), (0.976, 20), (1, 20), (1.7, 20), (-3, 0)]
)
def test_bars(share: float, full: int) -> None:
    assert _retention.bar(share) == "█" * full + "·" * (20 - full)


def test_kinds_are_escaped() -> None:
    assert _retention.kind("model.\x1b[2J.weight") == r"\x1b[2J"
    assert all(row.isprintable() for row in _retention.table([rounding("a.b\n\x1b[2Jc.weight")]))


# The command, on a packed base that the command itself makes


@pytest.fixture
def packed(street: Path) -> Path:
    done = run(
        "merge", street / "adapter", "--base", street / "base", "--out", street / "packed",
        "--quant", "nf4", "--quiet",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    return street


def again(street: Path, *more: str | Path) -> Outcome:
    return run(
        "merge", street / "adapter", "--base", street / "packed", "--out", street / "out", *more
    )


def test_the_table_is_shown(packed: Path) -> None:
    for more in (("--dry-run",), ()):
        done = again(packed, *more)
        assert done.code == 0, done.err
        rows = [line.split() for line in done.out.splitlines() if "█" in line or "···" in line]
        assert {row[0] for row in rows} == {"q_proj", "down_proj"}
        assert "accuracy" not in done.out.replace("it is no accuracy", "")
    assert "MRG045" in done.out
    assert "Nearest rounding would have kept" in done.out


def test_json_says_it_too(packed: Path) -> None:
    plan = json.loads(again(packed, "--dry-run", "--json").out)
    assert {r["tensor"] for r in plan["foreseen"]} == {
        f"model.layers.{i}.{module}.weight"
        for i in range(2)
        for module in ("self_attn.q_proj", "mlp.down_proj")
    }  # fmt: skip
    report = json.loads(again(packed, "--json").out)
    assert report["facts"]["retention"]["tensors"] == 4
    assert all(r["retention"]["kept"] is not None for r in report["facts"]["rounding"])


def test_json_follows_the_schemas(packed: Path) -> None:
    from adaptertools import schema

    schema.check("plan", json.loads(again(packed, "--dry-run", "--json").out))
    schema.check("report", json.loads(again(packed, "--json", "--verify").out))
    schema.check("receipt", json.loads((packed / "out" / "adaptertools.json").read_text()))
    schema.check("receipt", json.loads((packed / "packed" / "adaptertools.json").read_text()))
    done = run("verify", packed / "out")
    assert done.code == 0, done.out + done.err


def test_a_plain_merge_shows_no_table(street: Path) -> None:
    done = run("merge", street / "adapter", "--base", street / "base", "--out", street / "out")
    assert done.code == 0
    assert "nearest" not in done.out
    assert "█" not in done.out


# Plots


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_plot_is_a_picture(more: tuple[str, ...], packed: Path) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    done = again(packed, "--plot", packed / "kept.png", *more)
    assert (done.code, done.err) == (0, "") or "merging" in done.err
    assert (packed / "kept.png").read_bytes().startswith(PNG)
    assert (packed / "out").exists() == (not more)


@pytest.mark.parametrize(
    ("name", "word"),
    [("none/kept.png", "none"), ("kept.potato", "potato"), (".", "")],
    ids=["no folder", "no format", "a folder"],
)
def test_a_plot_that_cannot_be_drawn_is_refused_before_the_merge(
    name: str, word: str, packed: Path
) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    before = contents(packed)
    assert_refused(again(packed, "--plot", packed / name), word)
    assert contents(packed) == before


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_plot_of_nothing_is_refused_before_the_merge(more: tuple[str, ...], street: Path) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    before = contents(street)
    done = run(
        "merge", street / "adapter", "--base", street / "base", "--out", street / "out", "--plot",
        street / "kept.png", *more,
    )  # fmt: skip
    assert_refused(done, "--plot", "nothing is packed")
    assert contents(street) == before


def test_a_plot_without_matplotlib(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adaptertools.cli import _pictures as pictures

    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    before = contents(packed)
    assert_refused(
        again(packed, "--plot", packed / "kept.png"), "matplotlib", "adaptertools[plots]"
    )
    assert contents(packed) == before


def test_matplotlib_is_only_loaded_to_draw(packed: Path) -> None:
    code = (
        "import sys; from adaptertools.cli import main; "
        f"sys.argv = ['a', 'merge', {str(packed / 'adapter')!r}, '--base', "
        f"{str(packed / 'packed')!r}, '--out', {str(packed / 'out')!r}, '--dry-run', '--quiet']\n"
        "try: main()\nexcept SystemExit as done: assert not done.code\n"
        "print(sorted({'matplotlib', 'torch', 'transformers', 'bitsandbytes'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.findall(r"^\[.*\]$", done.stdout, re.MULTILINE) == ["[]"]
