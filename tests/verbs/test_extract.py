"""Extraction against numpy's dense decomposition; what is left out, saved whole and refused."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import adaptertools as at
from adaptertools import schema
from adaptertools.errors import AdapterToolsError, Mismatch, Unreadable, Unsafe, Unsupported
from adaptertools.update import largest
from tests import handmade
from tests.cli import assert_refused, contents, run
from tests.handmade import START, Arrays

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
NORM, EMBED = "model.norm.weight", "model.embed_tokens.weight"


def tuned(rank: int = 2, **more: Any) -> Arrays:
    """The base's tensors with two weights changed, and others as given."""
    tensors = handmade.base_tensors()
    for i, module in enumerate((Q, DOWN)):
        weight = tensors[f"{module}.weight"]
        up = handmade.noise(len(weight), rank, seed=70 + i).astype("f8")
        change = up @ handmade.noise(rank, weight.shape[1], seed=80 + i)
        tensors[f"{module}.weight"] = (weight + change).astype("f4")
    return tensors | more


def models(folder: Path, new: Arrays, old: Arrays | None = None, **config: Any) -> tuple[str, str]:
    handmade.base(folder / "base", old, **config)
    handmade.base(folder / "tuned", new, shards=3, **config)
    return str(folder / "base"), str(folder / "tuned")


def pairs(folder: Path) -> dict[str, tuple[Any, Any]]:
    """B and A of every module, in float64."""
    held = handmade.read(folder)
    names = [n.removesuffix(".lora_A.weight") for n in held if n.endswith("lora_A.weight")]
    return {
        n.removeprefix(START): tuple(held[f"{n}.lora_{x}.weight"].astype("f8") for x in "BA")
        for n in names
    }


def differences(new: Arrays) -> Arrays:
    old = handmade.base_tensors()
    return {m: new[f"{m}.weight"].astype("f8") - old[f"{m}.weight"] for m in (Q, DOWN)}


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("way", ["dense", "gram"])
def test_the_nearest_of_that_rank(
    rank: int, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "gram":
        monkeypatch.setattr(largest, "DENSE", 2)
    new = tuned(rank=5)
    report = at.extract(*models(tmp_path, new), out=tmp_path / "out", rank=rank, dtype="float64")
    found = pairs(tmp_path / "out")
    figures = {each["target"]: each for each in report.facts["modules"]}
    for module, change in differences(new).items():
        up, down = found[module]
        left, values, right = np.linalg.svd(change, full_matrices=False)
        best = (left[:, :rank] * values[:rank]) @ right[:rank]
        assert np.abs(up @ down - best).max() < 1e-12
        said = figures[module]
        size = np.linalg.norm(change)
        assert said["method"] == way
        assert (said["rank"], said["shape"]) == (rank, list(change.shape))
        assert said["norm"] == pytest.approx(size, rel=1e-12)
        assert said["error"] == pytest.approx(np.linalg.norm(change - best) / size, abs=1e-14)
        assert said["worst"] == pytest.approx(np.abs(change - best).max(), abs=1e-12)
        assert said["energy"] == pytest.approx((values[:rank] ** 2).sum() / size**2, rel=1e-12)
    schema.check("report", json.loads(json.dumps(report.as_json(), allow_nan=False)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_error_is_that_of_what_is_stored(dtype: str, tmp_path: Path) -> None:
    new = tuned()
    report = at.extract(*models(tmp_path, new), out=tmp_path / "out", dtype=dtype)
    found, changes = pairs(tmp_path / "out"), differences(new)
    for each in report.facts["modules"]:
        up, down = found[each["target"]]
        off = changes[each["target"]] - up @ down
        assert each["rank"] == 2
        assert each["error"] == pytest.approx(np.linalg.norm(off) / each["norm"], rel=1e-9)
        assert each["worst"] == pytest.approx(np.abs(off).max(), rel=1e-9)
        assert (1e-9 if dtype == "float32" else 1e-4) < each["error"] < 1e-2
    named = handmade.read(tmp_path / "out")
    assert {str(tensor.dtype) for tensor in named.values()} == {dtype}


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999, 1.0])
def test_energy_is_the_smallest_rank_that_keeps_it(share: float, tmp_path: Path) -> None:
    new = tuned(rank=6)
    rank = f"energy:{share}"
    report = at.extract(*models(tmp_path, new), out=tmp_path / "out", rank=rank)
    changes = differences(new)
    for each in report.facts["modules"]:
        values = np.linalg.svd(changes[each["target"]], compute_uv=False) ** 2
        kept = np.cumsum(values) / values.sum()
        assert kept[each["rank"] - 1] >= share - 1e-12
        assert each["rank"] == 1 or kept[each["rank"] - 2] < share


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    new = tuned(**{NORM: handmade.base_tensors()[NORM] + 1})
    report = at.extract(*models(tmp_path, new), out=tmp_path / "out")
    assert sorted(handmade.read(tmp_path / "out")) == sorted(
        [f"{START}{m}.lora_{x}.weight" for m in (Q, DOWN) for x in "AB"] + [START + NORM]
    )
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == [Q, DOWN]
    assert config["modules_to_save"] == ["model.norm"]
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (2, 2, "CAUSAL_LM")
    assert report.facts["unchanged"] == len(new) - 3
    faults = {f.code for f in at.validate(tmp_path / "out").findings if f.level == "error"}
    assert faults == {"BAS002"}  # the base is named by its path, and EXT007 says so
    assert "EXT007" in {f.code for f in report.findings}
    assert (handmade.read(tmp_path / "out")[START + NORM] == new[NORM]).all()


def test_tied_embeddings_change_under_both_names(tmp_path: Path) -> None:
    old = {n: t for n, t in handmade.base_tensors().items() if n != "lm_head.weight"}
    new = {n: t for n, t in tuned().items() if n != "lm_head.weight"} | {EMBED: old[EMBED] * 2}
    paths = models(tmp_path, new, old, tie_word_embeddings=True)
    report = at.extract(*paths, out=tmp_path / "out")
    assert set(report.facts["saved"]) == {EMBED, "lm_head.weight"}
    at.merge(str(tmp_path / "out"), base=paths[0], out=tmp_path / "merged")
    merged = handmade.read(tmp_path / "merged")
    assert "lm_head.weight" not in merged
    assert (merged[EMBED] == new[EMBED]).all()


def test_a_cast_is_rounding_and_no_adapter(tmp_path: Path) -> None:
    narrow = {n: t.astype(ml_dtypes.bfloat16) for n, t in handmade.base_tensors().items()}
    wide = {n: t.astype("f4") for n, t in narrow.items()}
    with pytest.raises(Mismatch, match="same values"):
        at.extract(*models(tmp_path / "a", wide, narrow), out=tmp_path / "out")
    linear = {n: t for n, t in narrow.items() if "_proj" in n}
    paths = models(tmp_path / "b", handmade.base_tensors() | linear)
    with pytest.raises(Mismatch, match="rounding only"):
        at.extract(*paths, out=tmp_path / "out")
    report = at.extract(*paths, out=tmp_path / "out", rank="max")
    assert {f.code for f in report.findings} >= {"EXT002", "EXT004"}


def expert(tensors: Arrays) -> Arrays:
    return tensors | {"model.layers.0.mlp.experts.up_proj": np.zeros((2, 3, 4), "f4")}


REFUSED: dict[str, tuple[Arrays, Arrays, dict[str, Any], type[AdapterToolsError], str]] = {
    "shape": (handmade.base_tensors(), tuned(**{EMBED: np.ones((13, 8), "f4")}), {}, Mismatch,
              "vocabulary"),
    "missing": (handmade.base_tensors(), {n: t for n, t in tuned().items() if n != NORM}, {},
                Mismatch, "1 tensors that .* has not: model.norm.weight"),
    "more": (handmade.base_tensors(), tuned(**{"model.x.weight": np.ones((2, 2), "f4")}), {},
             Mismatch, r"has not: model\.x\.weight"),
    "packed": (handmade.base_tensors(), tuned(),
               {"quantization_config": {"quant_method": "bitsandbytes"}}, Unsupported, "packed"),
    "expert": (expert(handmade.base_tensors()),
               {n: t + 1 for n, t in expert(tuned()).items()}, {}, Unsupported, "expert"),
    "bare": (handmade.base_tensors() | {"gamma": np.ones(2, "f4")},
             tuned(gamma=np.zeros(2, "f4")), {}, Unsupported, "of the model itself"),
    "turned": (handmade.base_tensors() | {"model.h.c_attn.weight": np.ones((2, 2), "f4")},
               tuned(**{"model.h.c_attn.weight": np.zeros((2, 2), "f4")}),
               {"model_type": "strange"}, Unsupported, "stored .out, in. or .in, out."),
    "counts": (handmade.base_tensors() | {"model.ids": np.arange(3)},
               tuned(**{"model.ids": np.ones(3, int)}), {}, Unsupported, "Only floats"),
    "nan": (handmade.base_tensors(), {n: t * np.nan for n, t in tuned().items()}, {}, Unreadable,
            "NaN"),
    "nan in a norm": (handmade.base_tensors(), tuned(**{NORM: np.full(8, np.inf, "f4")}), {},
                      Unreadable, "model.norm.weight"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_nothing_written(name: str, tmp_path: Path) -> None:
    old, new, config, kind, words = REFUSED[name]
    paths = models(tmp_path, new, old, **config)
    with pytest.raises(kind, match=words):
        at.extract(*paths, out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    paths = models(tmp_path, tuned())
    handmade.change_json(tmp_path / "tuned" / "config.json", model_type="qwen2")
    with pytest.raises(Mismatch, match=r"of type llama .* of type qwen2"):
        at.extract(*paths, out=tmp_path / "out")


def test_inputs_and_outputs_stay_apart(tmp_path: Path) -> None:
    paths = models(tmp_path, tuned())
    (tmp_path / "there").mkdir()
    (tmp_path / "x.partial").mkdir()
    before = contents(tmp_path)
    for out in ("there", "x", "base/out"):
        with pytest.raises(Unsafe):
            at.extract(*paths, out=tmp_path / out)
    with pytest.raises(Unsupported, match="budget"):
        at.extract(*paths, out=tmp_path / "out", rank="budget:4")
    assert contents(tmp_path) == before


def test_on_the_command_line(tmp_path: Path) -> None:
    paths = models(tmp_path, tuned(rank=5))
    done = run("extract", *paths, "--out", tmp_path / "one", "--rank", "2")
    assert (done.code, done.err) == (0, "")
    assert "2 weights as factors" in done.out
    assert "EXT001" in done.out
    done = run("extract", *paths, "--out", tmp_path / "two", "--rank", "2", "--json")
    schema.check("report", json.loads(done.out))
    one, two = (contents(tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert_refused(run("extract", *paths, "--out", tmp_path / "two"), "exists already")
    assert_refused(run("extract", *paths, "--out", tmp_path / "x", "--rank", "many"), "--rank")
    card = (tmp_path / "one" / "README.md").read_text()
    assert str(tmp_path) not in card


def test_names_of_strangers_are_escaped(tmp_path: Path) -> None:
    evil = "model.\x1b[2J\n::error::.q_proj"
    old = handmade.base_tensors() | {f"{evil}.weight": np.zeros((8, 8), "f4")}
    new = tuned(**{f"{evil}.weight": handmade.noise(8, 8)})
    done = run("extract", *models(tmp_path, new, old), "--out", tmp_path / "out", "--rank", "1")
    assert (done.code, done.err) == (0, "")
    assert done.out.replace("\n", "").isprintable()
    assert not any(line.startswith("::") for line in done.out.splitlines())
