"""compare on the command line: words, JSON, the heat map, pictures and hostile names."""

import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

import numpy as np
import pytest

import adaptertools as at
from adaptertools import schema
from adaptertools.cli import _cosines
from adaptertools.cli import _pictures as pictures
from tests import handmade
from tests.cli import assert_refused, run
from tests.cli.test_cli import heavy_after
from tests.cli.test_inspect import EVIL, parsed
from tests.handmade import START

MODULES = [f"model.layers.{i}.self_attn.{x}_proj" for i in range(3) for x in "qv"]


def lora(folder: Path, seed: int, **config: Any) -> Path:
    held = {}
    for i, module in enumerate(MODULES):
        held[f"{START}{module}.lora_A.weight"] = handmade.noise(2, 8, seed=seed + i)
        held[f"{START}{module}.lora_B.weight"] = handmade.noise(8, 2, seed=seed + i + 50)
    return handmade.adapter(folder, held, target_modules=["q_proj", "v_proj"], **config)


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Two that are unrelated, and the first one negated."""
    paths = [lora(tmp_path / "one", 0), lora(tmp_path / "two", 500), lora(tmp_path / "minus", 0)]
    name = "adapter_model.safetensors"
    handmade.change_tensors(
        paths[2] / name, lambda t: {n: -a if "lora_B" in n else a for n, a in t.items()}
    )
    return paths


def test_words(three: list[Path]) -> None:
    done = run("compare", *three)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line[:2] for line in lines[:3]] == ["A ", "B ", "C "]
    assert "6 modules, rank 2" in lines[0]
    row = next(line for line in lines if "A, C" in line).split()
    assert row[2:6] == ["-1.0000", "1.0000", "1.0000", "0.0000"]
    assert row[6] == "100.00%"
    assert "any two of opposite signs" in done.out
    assert "CMP004" in done.out
    assert run("compare", *three, "--quiet").out == ""


def test_json_is_what_the_library_gives(three: list[Path]) -> None:
    done = run("compare", *three, "--json", "--samples", "20", "--seed", "3")
    found = json.loads(done.out)
    schema.check("compare", found)
    given = at.compare([str(path) for path in three], samples=20, seed=3)
    assert found == json.loads(json.dumps(given.as_json()))
    assert found["pairs"][0]["conflict"]["exact"] is False


def test_the_map_tells_agreement_from_opposition(three: list[Path], tmp_path: Path) -> None:
    def shades(*paths: Path) -> list[str]:
        lines = run("compare", *paths).out.splitlines()
        return [line.split()[1] for line in lines if re.match(r"  [qv]_proj  \S", line)]

    assert shades(three[0], three[2]) == ["#########", "#########"]
    same = lora(tmp_path / "same", 0)
    assert shades(three[0], same) == ["█████████", "█████████"]
    assert set("".join(shades(three[0], three[1]))) <= set("·░▒-=")


def test_signs_of_the_map_by_value() -> None:
    signs = [_cosines._sign(v, False) for v in (-1, -0.6, -0.3, -0.1, 0, 0.01, 0.1, 0.3, 0.6, 1)]
    assert "".join(signs) == "#≡=-··░▒▓█"


def test_a_cell_of_several_modules_is_their_mean(tmp_path: Path) -> None:
    def experts(folder: Path, signs: tuple[int, int]) -> Path:
        held = {}
        for i, sign in enumerate(signs):
            name = f"{START}model.layers.0.experts.{i}.up"
            held[f"{name}.lora_A.weight"] = np.eye(2, 8, dtype="f4")
            held[f"{name}.lora_B.weight"] = np.eye(8, 2, dtype="f4") * sign
        return handmade.adapter(folder, held, target_modules=["up"])

    found = at.compare([experts(tmp_path / "a", (1, 1)), experts(tmp_path / "b", (1, -1))])
    assert _cosines.grid(found).cells == {("up", 0): 0.0}


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_pictures(ending: str, three: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"map.{ending}"
    done = run("compare", *three, "--plot", file, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    data = file.read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])
    if ending == "svg":
        ElementTree.fromstring(data)
        assert b"q_proj" in data


def test_page(three: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "map.html"
    assert run("compare", three[0], three[2], "--plot", file, "--quiet").code == 0
    page = file.read_text("utf-8")
    root = parsed(page)
    tips = [title.text for title in root.iter() if title.tag.endswith("title")][1:]
    assert tips == [f"{x}_proj, layer {i}: -1" for x in "qv" for i in range(3)]
    rows = [[cell.text for cell in row] for row in root.iter("tr")]
    assert rows[:3] == [["cosine", "A", "B"], ["A", "1", "-1"], ["B", "-1", "1"]]
    assert rows[4][:3] == [MODULES[0], "A, B", "-1"]
    assert not re.search(r"src=|href=|url\(|@import|<script|<link", page)


@pytest.mark.parametrize("ending", ["png", "svg", "html"])
def test_hostile_names_in_pictures(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"map.{ending}"
    (tmp_path / EVIL[:7]).mkdir()
    names = [f"l.0.{EVIL}", f"l.1.{EVIL}", EVIL]
    held = {f"{START}{n}.lora_{x}.weight": np.ones((2, 2), "f4") for n in names for x in "AB"}
    held[f"{START}{EVIL}.bias"] = np.ones(2, "f4")
    paths = [
        handmade.adapter(tmp_path / EVIL[:7] / each, held, base_model_name_or_path=each + EVIL)
        for each in "ab"
    ]
    with patch("warnings.warn"):  # fonts lack signs, and say so
        done = run("compare", *paths, "--plot", file)
    assert (done.code, done.err) == (0, "")
    data = file.read_bytes()
    assert len(data) > 1000
    if ending != "png":
        assert b"<script" not in data
        assert b"\x1b" not in data
    if ending == "html":
        parsed(data.decode("utf-8"))
    assert done.out.replace("\n", "").isprintable()
    assert not any(line.startswith("::") for line in done.out.splitlines())


def test_pages_need_no_matplotlib_and_pictures_say_so(three: list[Path], tmp_path: Path) -> None:
    with patch.object(pictures, "find_spec", return_value=None):
        assert run("compare", *three, "--plot", tmp_path / "map.html").code == 0
        done = run("compare", *three, "--plot", tmp_path / "map.png")
    assert_refused(done, "matplotlib", "adaptertools[plots]")
    assert_refused(run("compare", "nothing", "--plot", tmp_path / "m.jpg"), ".png", ".html")


def test_nothing_to_draw(tmp_path: Path) -> None:
    held = {f"{START}head.lora_{x}.weight": np.ones((2, 2), "f4") for x in "AB"}
    paths = [handmade.adapter(tmp_path / each, held) for each in "ab"]
    done = run("compare", *paths, "--plot", tmp_path / "map.html")
    assert_refused(done, "no module", "of a layer")
    assert not (tmp_path / "map.html").exists()


def test_refusals_are_one_sentence(three: list[Path]) -> None:
    assert_refused(run("compare", three[0]), "two or more")
    assert_refused(run("compare", three[0], three[0]), "named twice")
    assert_refused(run("compare", *three, "--samples", "0"), "samples")
    assert run("compare").code == 2


def test_it_needs_no_models(three: list[Path]) -> None:
    _, loaded = heavy_after("compare", *three)
    assert loaded == {"numpy", "ml_dtypes"}


def test_many_adapters_have_short_names() -> None:
    assert _cosines.letters(28)[24:] == ["Y", "Z", "A1", "B1"]
