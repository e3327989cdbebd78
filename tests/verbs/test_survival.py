"""What is said of an update's survival: sums, sentences, and when nearest is refused."""

import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptertools as at
from adaptertools.errors import Unsupported
from adaptertools.jobs import Edit
from adaptertools.packing import Repack
from adaptertools.quant import int8, nf4
from adaptertools.retention import Retention
from adaptertools.rounding import Rounding
from adaptertools.verbs import _survival
from tests.kit_packed import WEIGHTS, edit, lora
from tests.kit_quant import Streets

torch.set_num_threads(1)


def rounding(kept: float, energy: float = 1.0, name: str = "a", **more: Any) -> Rounding:
    fields: dict[str, Any] = {
        "nearest": None, "noise": 0.05, "in_band": None, "moved": 0.03, "clipped": 1,
    }  # fmt: skip
    retention = Retention(kept=kept, energy=energy, **fields | more)
    return Rounding(
        tensor=name, max_error=0.1, mean_error=0.01, swallowed=0.9, update_norm=0.01, measured=9,
        retention=retention,
    )  # fmt: skip


def plain() -> Rounding:
    return Rounding(
        tensor="b", max_error=0.1, mean_error=0.01, swallowed=0.9, update_norm=0.01, measured=9
    )


# Sums


def test_the_whole_is_weighed_by_energy() -> None:
    said = [rounding(1.0, 3.0, nearest=0.1, in_band=0.2), rounding(0.2, 1.0, nearest=0.5), plain()]
    found = _survival.summed(said)
    assert found["tensors"] == 2
    assert found["kept"] == pytest.approx(0.8)
    assert found["nearest"] == pytest.approx((0.3 + 0.5) / 4)
    assert found["in_band"] == pytest.approx(0.2)
    assert (found["lost"], found["weak"], found["clipped"]) == (1, 0, 2)


@pytest.mark.parametrize(
    ("kept", "counts"),
    [(0.49, (1, 0)), (0.5, (0, 1)), (0.89, (0, 1)), (0.9, (0, 0)), (1.3, (0, 0)), (-0.2, (1, 0))],
)
def test_lost_and_weak(kept: float, counts: tuple[int, int]) -> None:
    found = _survival.summed([rounding(kept)])
    assert (found["lost"], found["weak"]) == counts


def test_where_nothing_is_packed_there_is_nothing_to_say() -> None:
    assert _survival.summed([]) == {}
    assert _survival.summed([plain()]) == {}


def test_the_sum_is_that_of_one_large_weight(tmp_path: Path) -> None:
    """Retention weighed by energy is the retention of all weights laid end to end."""
    from tests.kit_packed import delta, run, worth

    parts, top, bottom = [], 0.0, 0.0
    for i, share in enumerate((0.005, 0.02, 0.1)):
        weight = WEIGHTS["nf4"](tmp_path / str(i), (64, 64 * (i + 1)))
        update = lora((64, 64 * (i + 1)), share * float(torch.linalg.norm(weight.values)), seed=i)
        made, said = run(tmp_path / str(i), edit(weight, update))
        moved = worth(weight, made[weight.name]) - weight.values
        top += float((moved * delta(update)).sum())
        bottom += float((delta(update) ** 2).sum())
        assert said is not None
        parts.append(said)
    assert _survival.summed(parts)["kept"] == pytest.approx(top / bottom, abs=1e-4)


# Nearest


def edits(folder: Path, how: str, kind: str = "nf4") -> list[Edit]:
    weight = WEIGHTS[kind](folder, (64, 64))
    return [edit(weight, lora((64, 64), 0.1), how, name="a")]


@pytest.mark.parametrize(
    ("how", "kept", "force", "refused"),
    [
        ("nearest", 0.49, False, True), ("nearest", 0.51, False, False),
        ("nearest", 0.0, True, False), ("stochastic", 0.1, False, False),
        ("adapter", 0.1, False, False),
    ],
)  # fmt: skip
def test_when_nearest_is_refused(
    how: str, kept: float, force: bool, refused: bool, tmp_path: Path
) -> None:
    planned = edits(tmp_path, how)
    if refused:
        with pytest.raises(Unsupported, match=r"would keep 49%.*--force"):
            _survival.check_nearest([rounding(kept)], planned, force)
    else:
        _survival.check_nearest([rounding(kept)], planned, force)


def test_nearest_from_16_bit_is_never_refused(tmp_path: Path) -> None:
    (packed,) = edits(tmp_path, "nearest")
    codec = nf4.writer(double_quant=False, block_size=64)
    fresh = Repack(codec=codec, kept=False, rounding="nearest")
    bare = Edit(name="a", dtype="BF16", source=packed.source, updates=packed.updates, repack=fresh)
    _survival.check_nearest([rounding(0.1)], [bare], False)


@pytest.mark.parametrize("share", [0.0002, 0.01, 0.5])
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_a_plan_refuses_what_a_merge_would_lose(
    kind: str, share: float, streets: Streets, tmp_path: Path
) -> None:
    """What nearest keeps is measured with --force, and held against who was let through."""
    base, adapter = streets.packed("llama", kind), streets.small("llama", share * 5)
    how: dict[str, Any] = {"base": base, "rounding": "nearest"}
    report = at.merge(adapter, out=tmp_path / "out", force=True, **how)
    kept = report.facts["retention"]["kept"]
    assert kept == pytest.approx(report.facts["retention"]["nearest"], abs=1e-6)
    if kept < 0.4:
        with pytest.raises(Unsupported, match="--rounding nearest"):
            at.plan(adapter, out=tmp_path / "never", **how)
    elif kept > 0.6:
        at.plan(adapter, out=tmp_path / "never", **how)
    finding = next(f for f in report.findings if f.code == "MRG045")
    assert finding.level == ("warning" if kept < 0.9 else "note")


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Streets:
    return Streets(tmp_path_factory.mktemp("streets"))


# Sentences


def sentence(said: Sequence[Rounding], planned: Sequence[Edit]) -> str:
    return _survival.sentence(_survival.summed(said), planned)


def test_the_sentence_for_kept_scales(tmp_path: Path) -> None:
    said = [rounding(0.9957, nearest=0.0213, noise=0.048)]
    text = sentence(said, edits(tmp_path, "adapter"))
    assert text == (
        "Nearest rounding would have kept 2% of this adapter; adapter-aware rounding kept 99.6%; "
        "added noise 4.8% of the weights, the nf4 base already has about 9.2%. Retention is of "
        "weights, it is no accuracy."
    )


def test_the_sentence_for_nearest_does_not_compare_it_with_itself(tmp_path: Path) -> None:
    text = sentence([rounding(0.02, nearest=0.02)], edits(tmp_path, "nearest"))
    assert text.startswith("Nearest rounding kept 2% of this adapter; added noise")
    assert text.count("earest") == 1


@pytest.mark.parametrize("how", ["adapter", "stochastic", "nearest", None, "fresh"])
def test_the_word_accuracy_is_only_there_to_be_denied(how: str | None, tmp_path: Path) -> None:
    (one,) = edits(tmp_path, "adapter")
    codec = int8.writer(double_quant=False, block_size=64)
    repack = {None: None, "fresh": Repack(codec=codec, kept=False, rounding="nearest")}.get(
        how, Repack(codec=one.repack.codec if one.repack else codec, kept=True, rounding=str(how))
    )
    from dataclasses import replace

    text = sentence([rounding(0.9, nearest=0.1)], [replace(one, repack=repack)])
    assert text.endswith("Retention is of weights, it is no accuracy.")
    assert text.lower().count("accura") == 1
    assert text[0].isupper()
    assert re.search(r"kept \d", text)


def test_from_16_bit_the_noise_is_the_packings_own(streets: Streets, tmp_path: Path) -> None:
    report = at.merge(
        streets.adapter("llama"), base=streets.base("llama"), out=tmp_path / "out", quant="nf4"
    )
    text = next(f.text for f in report.findings if f.code == "MRG045")
    assert text.startswith("Nearest rounding kept ")
    found = re.search(r"the packed weights are off by (\d+\.\d)%", text)
    assert found is not None
    assert 8 < float(found[1]) < 11  # nf4's error on normal weights: 9.2 %


# Advice

ADVICE: dict[str, tuple[str, dict[str, Any], str]] = {
    "kept": ("nf4", {}, "nf4, adapter rounding"),
    "chance": ("nf4", {"rounding": "stochastic"}, "nf4, stochastic rounding"),
    "nearest": ("nf4", {"rounding": "nearest", "force": True}, "nf4, nearest rounding"),
    "eight": ("nf4", {"quant": "8bit"}, "int8"),
    "none": ("nf4", {"quant": "none"}, "16 bit"),
    "other": ("nf4", {"quant": "fp4"}, "fp4"),
    "from 16": ("16", {"quant": "nf4"}, "nf4"),
}


@pytest.mark.parametrize("case", ADVICE)
def test_the_plan_says_what_was_chosen(case: str, streets: Streets, tmp_path: Path) -> None:
    base, how, chosen = ADVICE[case]
    folder = streets.base("llama") if base == "16" else streets.packed("llama", base)
    plan = at.plan(streets.small("llama"), base=folder, out=tmp_path / "out", **how)
    text = next(f.text for f in plan.findings if f.code == "MRG040")
    assert chosen in text
    rounded = {e.repack.rounding for e in plan.edits if e.repack and e.updates}
    for word in ("adapter rounding", "stochastic rounding", "nearest rounding"):
        assert (word not in text) or (word.split()[0] in rounded)
    if base != "16":
        order = [
            "beside the packed base", "--quant none", "--base-weights original", "--quant 8bit",
            "kept scales",
        ]  # fmt: skip
        places = [text.index(way) for way in order]
        assert places == sorted(places)


def test_a_plain_merge_is_given_no_advice(streets: Streets, tmp_path: Path) -> None:
    plan = at.plan(streets.small("llama"), base=streets.base("llama"), out=tmp_path / "out")
    assert not {f.code for f in plan.findings} & {"MRG040", "MRG045"}
    assert plan.foreseen == ()


# Looking ahead


@pytest.mark.parametrize("quant", ["keep", "int8", "fp4"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_what_the_plan_foresees_comes_to_pass(
    kind: str, quant: str, streets: Streets, tmp_path: Path
) -> None:
    base, adapter = streets.packed(kind, "nf4"), streets.small(kind)
    plan = at.plan(adapter, base=base, out=tmp_path / "out", quant=quant)
    report = at.merge(plan)
    ahead = {r.tensor: r.retention for r in plan.foreseen}
    after = {r["tensor"]: r["retention"] for r in report.facts["rounding"]}
    assert ahead.keys() == after.keys()
    for name, said in after.items():  # weights of these models are one tile: all was measured
        assert ahead[name] == Retention(**said)
    assert plan.as_json()["foreseen"][0]["retention"].keys() == said.keys()


@pytest.mark.parametrize(
    ("how", "kept", "force", "refused"),
    [
        ("adapter", 0.4, False, True), ("stochastic", 0.4, False, True),
        ("adapter", 0.4, True, False), ("adapter", 0.6, False, False),
        ("nearest", 0.4, False, False),
    ],
)  # fmt: skip
def test_kept_scales_that_cut_an_update_off_are_refused(
    how: str, kept: float, force: bool, refused: bool, tmp_path: Path
) -> None:
    planned = edits(tmp_path, how)
    with pytest.raises(Unsupported, match="cut off") if refused else nullcontext():
        _survival.check_cut([rounding(kept)], planned, force)
