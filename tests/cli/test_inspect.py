"""inspect on the command line: words, JSON, the heat map, pictures, and what is imported."""

import io
import json
import re
from pathlib import Path
from unittest.mock import patch
from xml.etree import ElementTree

import click
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import adaptertools as at
from adaptertools import schema
from adaptertools.cli import _heat, inspect
from adaptertools.cli import _pictures as pictures
from adaptertools.cli._heat import draw, heat
from adaptertools.cli._show import lines
from adaptertools.verbs._inspect_deep import Norm
from tests import handmade
from tests.cli import assert_refused, run
from tests.cli.test_cli import heavy_after
from tests.handmade import START

EVIL = "<script>alert('$\\frac{1}')</script>\x1b[2J&\"\n::error::"


def deep(folder: Path, layers: int = 2) -> Path:
    """Write a LoRA whose changes have known sizes: layer + 1 for q, twice that for v."""
    unit = {"lora_A": np.eye(2, 8, dtype="f4"), "lora_B": np.eye(8, 2, dtype="f4")}
    tensors = {
        f"{START}model.layers.{i}.self_attn.{x}_proj.{role}.weight": (
            array * (i + 1) * times / 8**0.5 if role == "lora_B" else array
        )
        for i in range(layers)
        for x, times in (("q", 1), ("v", 2))
        for role, array in unit.items()
    }
    return handmade.adapter(folder, tensors, target_modules=["q_proj", "v_proj"])


@pytest.mark.parametrize("flags", [(), ("--json",), ("--tensors",), ("--base", "{f}/base")])
def test_without_deep_nothing_heavy_is_imported(flags: tuple[str, ...], street: Path) -> None:
    asked = [flag.format(f=street) for flag in flags]
    said, loaded = heavy_after("inspect", street / "adapter", *asked)
    assert "LORA" in said
    assert loaded == set()


def test_deep_imports_numpy_and_no_models(street: Path) -> None:
    said, loaded = heavy_after("inspect", street / "adapter", "--deep")
    assert "‖ΔW‖" in said
    assert loaded == {"numpy", "ml_dtypes"}


def test_words(street: Path) -> None:
    done = run("inspect", street / "adapter")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"{street}/adapter: LORA; format: Hugging Face PEFT",
        "  base      not named",
        "  task      CAUSAL_LM",
        "  rank      2, alpha 4, scale 2",
        "  weights   adapter_model.safetensors: 160 parameters in 8 tensors, 640 B; F32 in 8",
        "  PEFT      0.0.1 or later, by its keys",
        "  targets   model.layers.0-1.mlp.down_proj",
        "            model.layers.0-1.self_attn.q_proj",
        "  modules                             weight  rank  alpha  scale  parameters",
        "  model.layers.*.mlp.down_proj     2    8×16     2      4      2          96",
        "  model.layers.*.self_attn.q_proj  2     8×8     2      4      2          64",
        "  merge     changes 4 weights; pass --base to see which",
    ]


def test_words_with_a_base(street: Path) -> None:
    done = run("inspect", street / "adapter", "--base", street / "base")
    assert f"  merge     changes 4 of the 11 tensors of {street}/base\n" in done.out
    assert "            model.layers.0-1.self_attn.q_proj.weight\n" in done.out


def test_words_for_all_that_an_adapter_may_bring(tmp_path: Path) -> None:
    tensors = handmade.lora_tensors() | {
        f"{START}lm_head.weight": handmade.noise(12, 8),
        f"{START}model.embed_tokens.token_adapter.trainable_tokens_delta": handmade.noise(3, 8),
        f"{START}model.layers.0.self_attn.q_proj.base_layer.bias": handmade.noise(8),
    }
    handmade.adapter(
        tmp_path / "adapter", tensors, modules_to_save=["lm_head"], base_model_name_or_path="a/b",
        revision="abc", trainable_token_indices=[1, 2, 3], use_rslora=True, bias="lora_only",
        lora_alpha=3, alpha_pattern={"q_proj": 5}, peft_version="0.18.1",
    )  # fmt: skip
    done = run("inspect", tmp_path / "adapter", "--tensors")
    for words in (
        "adapter: LORA, rsLoRA, trained tokens, bias lora_only; format",
        "base      a/b at abc", "rank      2, alpha 3, 5, scale 2.12132, 3.53553",
        "PEFT      0.18.0 or later, by its keys; written by 0.18.1",
        "saved     lm_head.weight\n            model.layers.0.self_attn.q_proj.bias",
        "biases    1 of the base's", "tokens    3 rows of model.embed_tokens",
        "merge     changes 5 weights and replaces or adds lm_head.weight, model.layers.0",
        f"{START}lm_head.weight  F32 12×8  384 B  saved whole",
        f"{START}model.layers.1.mlp.down_proj.lora_A.weight  F32 2×16  128 B  lora_A",
    ):  # fmt: skip
        assert words in done.out, words


def test_json(street: Path) -> None:
    done = run("inspect", street / "adapter", "--json", "--tensors", "--deep")
    assert (done.code, done.err) == (0, "")
    value = json.loads(done.out)
    schema.check("inspect", value)
    assert (value["rank"], value["modules"], len(value["tensors"])) == ([2], 4, 8)
    assert len(value["norms"]) == 4
    plain = json.loads(run("inspect", street / "adapter", "--json").out)
    schema.check("inspect", plain)
    assert (plain["tensors"], plain["norms"]) == (None, None)
    assert {**value, "tensors": None, "norms": None} == plain


def test_weights_that_cannot_be_read_are_said_and_the_exit_code_is_1(street: Path) -> None:
    path = street / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    done = run("inspect", street / "adapter")
    assert (done.code, done.err) == (1, "")
    assert "  UNREADABLE  " in done.out
    assert "cut short" in done.out
    assert "rank      2, alpha 4\n" in done.out
    done = run("inspect", street / "adapter", "--json")
    assert (done.code, json.loads(done.out)["ok"]) == (1, False)


def test_the_map(tmp_path: Path) -> None:
    done = run("inspect", deep(tmp_path / "adapter", 4), "--deep")
    assert done.code == 0
    text = done.out[done.out.index("‖ΔW‖ by kind") :].splitlines()
    assert text[1:5] == [
        "   layer  0",
        "  q_proj  ░░░▒▒▒▒▒▒▓▓▓",
        "  v_proj  ▒▒▒▓▓▓██████",
        "  · zero   ░ to 2   ▒ to 4   ▓ to 6   █ to 8",
    ]
    assert text[6].startswith("  model.layers.3.self_attn.v_proj  8, spectral ")
    assert text[6].endswith("effective rank 2.0, stable rank 2.0")
    assert len(text) == 11
    row = next(line for line in done.out.splitlines() if "*.self_attn.q_proj" in line)
    assert row.split()[-4:] == ["2.5", "1.77", "2", "0.875"]


def norms(**sizes: float | None) -> list[Norm]:
    return [Norm(target=n.replace("__", "."), norm=size) for n, size in sizes.items()]


def test_what_the_map_does_with_odd_modules() -> None:
    grid = heat(norms(
        l__0__a__x=3.0, l__0__b__x=0.0, l__2__a__x=None, l__2__b__x=5.0, l__2__e__0__w=3.0,
        l__2__e__1__w=4.0, lm_head=7.0, embed=None,
    ))  # fmt: skip
    assert (grid.kinds, grid.layers) == (("a.x", "b.x", "w"), (0, 2))
    assert grid.cells == {
        ("a.x", 0): 3.0, ("b.x", 0): 0.0, ("a.x", 2): None, ("b.x", 2): 5.0, ("w", 2): 5.0
    }  # fmt: skip
    assert draw(grid, 80, colour=False) == [
        f"{_heat.TITLE}:",
        "layer  0",
        "  a.x  ▓▓▓???",
        "  b.x  ···███",
        "  w       ███",
        "  · zero   ░ to 1.25   ▒ to 2.5   ▓ to 3.75   █ to 5   ? unknown",
        "  lm_head: 7",
        "  embed: unknown",
    ]


def test_a_map_wider_than_the_screen() -> None:
    grid = heat([Norm(target=f"l.{i}.q", norm=float(i)) for i in range(130)])
    text = draw(grid, 60, colour=False)
    assert all(len(line) <= 60 for line in text)
    cells = "".join(line[5:].strip() for line in text if line.startswith("  q"))
    assert len(cells) == 130
    assert (cells[0], cells[-1]) == ("·", "█")
    assert any(line.split() == ["layer", "55", "65", "75", "85", "95", "105"] for line in text)


def test_more_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_heat, "MOST_ROWS", 2)
    monkeypatch.setattr(_heat, "MOST_COLUMNS", 3)
    grid = heat([Norm(target=f"l.{i}.{x}", norm=1.0) for i in range(5) for x in "qkvo"])
    assert (grid.kinds, grid.layers, grid.left_out) == (("k", "o"), (0, 1, 2), 4)
    assert draw(grid, 80, colour=False)[-1] == "  … and 4 more kinds or layers"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_screens_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = at.inspect(deep(tmp_path / "adapter"), deep=True)
    assert "\x1b" not in "\n".join(lines(found))
    with patch("sys.stdout", Screen()):
        monkeypatch.delenv("NO_COLOR", raising=False)
        coloured = lines(found)
        monkeypatch.setenv("NO_COLOR", "1")
        assert "\x1b" not in "\n".join(lines(found))
    assert "\x1b[38;5;" in "\n".join(coloured)
    assert [click.unstyle(line) for line in coloured] == lines(found)


# --- Pictures.


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_pictures(ending: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"map.{ending}"
    done = run("inspect", deep(tmp_path / "adapter"), "--plot", file)
    assert (done.code, done.err) == (0, "")
    data = file.read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])
    if ending == "svg":
        ElementTree.fromstring(data)
        assert b"q_proj" in data


def parsed(page: str) -> ElementTree.Element:
    """Parse a page strictly: what XML takes, no browser mends."""
    return ElementTree.fromstring(page.removeprefix("<!doctype html>\n").replace(
        '<meta charset="utf-8">', '<meta charset="utf-8"/>'
    ))  # fmt: skip


def test_page(tmp_path: Path) -> None:
    file = tmp_path / "map.html"
    done = run("inspect", deep(tmp_path / "adapter", 3), "--plot", file, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    page = file.read_text("utf-8")
    root = parsed(page)
    tips = [title.text for title in root.iter() if title.tag.endswith("title")][1:]
    assert tips == [
        f"{x}_proj, layer {i}: {(i + 1) * times}" for x, times in (("q", 1), ("v", 2))
        for i in range(3)
    ]  # fmt: skip
    rows = [[cell.text for cell in row] for row in root.iter("tr")]
    assert len(rows) == 7
    assert rows[6][:3] == ["model.layers.2.self_attn.v_proj", "6", "4.243"]
    # It stands on its own: nothing is fetched, nothing runs.
    assert not re.search(r"src=|href=|url\(|@import|<script|<link", page)


def hostile(folder: Path) -> Path:
    """Write a LoRA whose names would do harm where they are not escaped."""
    a, b = np.ones((2, 8), "f4"), np.ones((8, 2), "f4")
    names = [f"l.0.{EVIL}", f"l.1.{EVIL}", EVIL]
    held = {f"{START}{n}.lora_{x}.weight": t for n in names for x, t in (("A", a), ("B", b))}
    return handmade.adapter(
        folder, held, base_model_name_or_path=EVIL, revision=EVIL, task_type=EVIL, bias=EVIL,
        peft_version=EVIL, target_modules=[EVIL], init_lora_weights=EVIL,
    )  # fmt: skip


@pytest.mark.parametrize("ending", ["png", "svg", "html"])
def test_hostile_names_in_pictures(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"map.{ending}"
    with patch("warnings.warn"):  # fonts lack signs, and say so
        done = run("inspect", hostile(tmp_path / EVIL[:7]), "--plot", file)
    assert (done.code, done.err) == (0, "")
    data = file.read_bytes()
    assert len(data) > 1000
    if ending != "png":
        assert b"<script" not in data
        assert b"\x1b" not in data
    if ending == "html":
        parsed(data.decode("utf-8"))


def test_hostile_names_in_words(tmp_path: Path) -> None:
    done = run("inspect", hostile(tmp_path / "adapter"), "--tensors", "--deep")
    assert (done.code, done.err) == (0, "")
    assert done.out.replace("\n", "").isprintable()
    assert not any(line.startswith("::") for line in done.out.splitlines())


@given(names=st.sets(st.text(max_size=30), max_size=12), json_too=st.booleans())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # fmt: skip
def test_any_names_are_shown_on_lines_of_their_own(
    tmp_path: Path, names: set[str], json_too: bool
) -> None:
    folder = tmp_path / "adapter"
    if not folder.exists():
        handmade.adapter(folder)
    held = {f"{n}.lora_{x}.weight": np.ones((2, 2), "f4") for n in names for x in "AB"}
    held |= {f"{name}x": np.ones(1, "f4") for name in names} or {"one": np.ones(1, "f4")}
    save_file(held, folder / "adapter_model.safetensors")
    found = at.inspect(folder, tensors=True, deep=True)
    assert "\n".join(lines(found)).replace("\n", "").isprintable()
    assert len(found.tensors or ()) == len(held)
    schema.check("inspect", json.loads(json.dumps(found.as_json(), allow_nan=False)))


def test_plot_refuses_before_it_reads(street: Path) -> None:
    for file in ("map.jpg", "map", "map.HTML"):
        assert_refused(run("inspect", street / "nothing", "--plot", file), ".png", ".svg", ".html")
    done = run("inspect", street / "nothing", "--plot", street / "no" / "map.html")
    assert_refused(done, "folder that exists")


def test_pages_need_no_matplotlib(street: Path) -> None:
    with patch.object(pictures, "find_spec", return_value=None):
        assert run("inspect", street / "adapter", "--plot", street / "map.html").code == 0
        done = run("inspect", street / "adapter", "--plot", street / "map.png")
    assert_refused(done, "matplotlib", "adaptertools[plots]")


def test_nothing_to_draw(tmp_path: Path) -> None:
    ia3 = {f"{START}model.layers.0.q.ia3_l": handmade.noise(8, 1)}
    folder = handmade.adapter(tmp_path / "adapter", ia3, peft_type="IA3")
    done = run("inspect", folder, "--plot", tmp_path / "map.html")
    assert_refused(done, "no sizes to draw", "LoRA only")
    assert not (tmp_path / "map.html").exists()


def test_counts_as_people_say_them() -> None:
    assert [inspect._count(n) for n in (0, 999, 1500, 8_030_000, 7e9, 2e13)] == [
        "0", "999", "1.5k", "8.03M", "7B", "2e+04B"
    ]  # fmt: skip
    assert inspect._span([1, 2, 3, 4]) == "1 to 4"
