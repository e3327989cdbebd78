"""The probe of packed weights: silent where all is right, whatever the numbers; loud where not."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import adaptertools as at
from adaptertools import probe_packed, tensorfile
from adaptertools.jobs import Edit
from adaptertools.packing import Repack
from adaptertools.quant import fp4, int8, nf4
from adaptertools.update.dora import Dora
from tests import tiny_llama as tiny
from tests.kit_packed import WEIGHTS, W, edit, four, lora, normal, run
from tests.kit_quant import PACKINGS, Kind, save_packed
from tests.update.weights import Held

torch.set_num_threads(1)

CONFIG = {
    "vocab_size": 64, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip
WIDE = Kind(
    lambda: LlamaForCausalLM(LlamaConfig(**CONFIG)), AutoModelForCausalLM, ("q_proj", "down_proj")
)
PLACES = {
    "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight"
}  # fmt: skip


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, packed ones, and adapters of the update times −1, 0, ½, 1 and 2."""
    folder = tmp_path_factory.mktemp("street")
    torch.manual_seed(0)
    base = WIDE.save(folder / "16", torch.bfloat16)
    for name in ("nf4", "nf4_double", "int8", "fp4"):
        save_packed(WIDE, base, folder / name, PACKINGS[name])
    WIDE.adapt(base, folder / "adapter")
    return folder


# What is merged: from which base, and how.
MERGES: dict[str, tuple[str, dict[str, Any]]] = {
    "nf4 kept": ("nf4", {}),
    "nf4 double kept": ("nf4_double", {}),
    "nf4 kept by chance": ("nf4", {"rounding": "stochastic"}),
    "fp4 kept": ("fp4", {}),
    "int8 kept": ("int8", {}),
    "nf4 to int8": ("nf4", {"quant": "int8"}),
    "nf4 to 16": ("nf4", {"quant": "none"}),
    "int8 to nf4": ("int8", {"quant": "nf4"}),
    "16 to nf4": ("16", {"quant": "nf4"}),
    "16 to nf4 double": ("16", {"quant": "nf4", "double_quant": True}),
    "16 to fp4": ("16", {"quant": "fp4"}),
    "16 to int8": ("16", {"quant": "int8"}),
    "16 to nf4 by chance": ("16", {"quant": "nf4", "rounding": "stochastic"}),
    "16 to nf4 aware": ("16", {"quant": "nf4", "rounding": "adapter"}),
}
every_merge = pytest.mark.parametrize("case", MERGES)


def merged(street: Path, case: str, out: Path, scale: float = 1.0) -> Path:
    """A copy of a merge, which is made when it is first asked for."""
    kept = street / f"{case} {scale}"
    if not kept.exists():
        base, how = MERGES[case]
        at.merge(street / "adapter", base=street / base, out=kept, scale=scale, **how)
    return Path(shutil.copytree(kept, out))


def places(report: at.Report) -> set[str]:
    assert {f.code for f in report.findings} <= {"VER004"}
    return {f.place for f in report.findings}


def put(out: Path, tensors: tiny.Tensors) -> None:
    """Put other values in the place of some of a merged model's."""
    for path in sorted(out.glob("*.safetensors")):
        held = load_file(path)
        for name in held.keys() & tensors.keys():
            assert (held[name].dtype, held[name].shape) == (
                tensors[name].dtype,
                tensors[name].shape,
            )
        save_file(
            {n: tensors.get(n, t).contiguous() for n, t in held.items()}, path, {"format": "pt"}
        )


def same_but_for(out: Path, other: Path) -> tiny.Tensors:
    """The tensors of another merge, as far as it has them in the same shape."""
    ours, theirs = tiny.read(out), tiny.read(other)
    return {n: t for n, t in theirs.items() if n in ours and t.shape == ours[n].shape}


@every_merge
def test_a_right_merge_passes(case: str, street: Path, tmp_path: Path) -> None:
    report = at.verify(merged(street, case, tmp_path / "out"))
    assert report.findings == ()
    assert report.facts["probed"] == len(PLACES)


@every_merge
@pytest.mark.parametrize("scale", [0.0, 0.5, -1.0, 2.0])
def test_the_update_by_another_factor(
    case: str, scale: float, street: Path, tmp_path: Path
) -> None:
    out = merged(street, case, tmp_path / "out")
    put(out, same_but_for(out, merged(street, case, tmp_path / "wrong", scale)))
    assert places(at.verify(out)) == PLACES


def test_an_update_that_nearest_has_not_kept(street: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"base": street / "nf4", "rounding": "nearest", "force": True}
    at.merge(street / "adapter", out=tmp_path / "out", scale=0.02, **how)
    assert at.verify(tmp_path / "out").ok
    at.merge(street / "adapter", out=tmp_path / "wrong", scale=2, **how)
    put(tmp_path / "out", same_but_for(tmp_path / "out", tmp_path / "wrong"))
    assert places(at.verify(tmp_path / "out")) == PLACES


@every_merge
@pytest.mark.parametrize("moved", ["block of codes", "rows"])
def test_codes_that_are_not_those(case: str, moved: str, street: Path, tmp_path: Path) -> None:
    out = merged(street, case, tmp_path / "out")
    for name in PLACES:
        codes = tiny.read(out)[name].clone()
        raw = codes.view(torch.uint8).reshape(-1)
        if moved == "rows":
            half = len(raw) // 2
            raw[:] = torch.cat([raw[half:], raw[:half]])
        else:
            raw[5000:5032] ^= 0x88
        put(out, {name: codes})
    assert places(at.verify(out)) == PLACES


SPOILS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "larger": lambda scales: scales * 1.3,
    "smaller": lambda scales: scales * 0.5,
    "nothing": lambda scales: scales * 0,
    "huge": lambda scales: scales * 1000,
    "negative": lambda scales: -scales,
    "infinite": lambda scales: scales * torch.inf,
}


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("case", [c for c in MERGES if c != "nf4 to 16"])
def test_scales_that_are_not_those(case: str, spoil: str, street: Path, tmp_path: Path) -> None:
    out = merged(street, case, tmp_path / "out")
    tensors, place = tiny.read(out), "model.layers.0.self_attn.q_proj"
    name = next(
        place + end
        for end in (".SCB", ".weight.nested_absmax", ".weight.absmax")
        if place + end in tensors
    )
    wrong = tensors[name].clone()
    part = slice(len(wrong) // 2, len(wrong) // 2 + 1)
    wrong[part] = SPOILS[spoil](wrong[part])
    put(out, {name: wrong})
    found = places(at.verify(out))
    assert found
    assert found <= {name, f"{place}.weight"}


@pytest.mark.parametrize("case", ["nf4 double kept", "16 to nf4 double"])
def test_packed_scales_that_are_not_those(case: str, street: Path, tmp_path: Path) -> None:
    out = merged(street, case, tmp_path / "out")
    name = "model.layers.0.self_attn.q_proj.weight.absmax"
    wrong = tiny.read(out)[name].clone()
    wrong[7:9] ^= 0x80
    put(out, {name: wrong})
    found = places(at.verify(out))
    assert found
    assert found <= {name, name.removesuffix(".absmax")}


def reversed_(values: torch.Tensor) -> torch.Tensor:
    return values.flip(0).contiguous()


def state(old: str, new: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Change the text of a quant_state; it keeps its length."""

    def change(values: torch.Tensor) -> torch.Tensor:
        text = bytes(values.tolist())
        made = text.replace(old.encode(), new.encode())
        assert made != text
        return torch.tensor(list(made.ljust(len(text))[: len(text)]), dtype=torch.uint8)

    return change


# What says how codes are read: table, quant_state, format.
READERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "quant_map": reversed_,
    "nested_quant_map": reversed_,
    "weight_format": lambda values: values + 1,
    "blocksize": state('"blocksize": 64', '"blocksize": 32'),
    "shape": state("[256, 256]", "[512, 128]"),
    "no JSON": state("{", "["),
    "nested_offset": state('"nested_offset": 0.', '"nested_offset": 7.'),
}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("case", [c for c in MERGES if c != "nf4 to 16"])
def test_what_says_how_codes_are_read(case: str, what: str, street: Path, tmp_path: Path) -> None:
    out = merged(street, case, tmp_path / "out")
    place = "model.layers.0.self_attn.q_proj"
    tensors = tiny.read(out)
    end = what if what.endswith(("map", "format")) else f"bitsandbytes__{kind_of(case)}"
    name = next((n for n in tensors if n.startswith(place) and n.endswith(f".{end}")), None)
    if end == "quant_map":
        name = f"{place}.weight.quant_map" if f"{place}.weight.quant_map" in tensors else None
    if name is None or (what == "nested_offset" and "double" not in case):
        return  # this packing has none
    put(out, {name: READERS[what](tensors[name])})
    found = places(at.verify(out))
    assert found
    assert found <= {name, f"{place}.weight"}


def kind_of(case: str) -> str:
    return "fp4" if "fp4" in case else "nf4"


@every_merge
def test_what_is_not_adapted_is_held_against_the_base(
    case: str, street: Path, tmp_path: Path
) -> None:
    out = merged(street, case, tmp_path / "out")
    other = "model.layers.0.mlp.up_proj.weight"
    wrong = tiny.read(out)[other].clone()
    wrong.view(torch.uint8).reshape(-1)[4000:4016] ^= 0x77
    put(out, {other: wrong})
    assert places(at.verify(out)) == {other}


def test_merge_verifies_before_the_name_is_given(street: Path, tmp_path: Path) -> None:
    report = at.merge(street / "adapter", base=street / "nf4", out=tmp_path / "out", verify=True)
    assert report.facts["verified"]["wrong"] == 0
    assert report.facts["verified"]["probed"] == len(PLACES)


def test_a_moved_packed_base(street: Path, tmp_path: Path) -> None:
    base = shutil.copytree(street / "nf4", tmp_path / "base")
    at.merge(street / "adapter", base=base, out=tmp_path / "out")
    assert at.verify(tmp_path / "out").ok
    moved = base.rename(tmp_path / "elsewhere")
    with pytest.raises(at.errors.NotFound):
        at.verify(tmp_path / "out")
    assert at.verify(tmp_path / "out", base=moved).ok


# Single weights: no false alarm

ROUNDINGS = ("adapter", "stochastic", "nearest")


def judge(folder: Path, planned: Edit, **options: Any) -> str:
    """Write an edit and let the probe look at it."""
    run(folder, planned, **options)
    written = dict(tensorfile.read_header(folder / "out.safetensors").tensors)
    if planned.packed is not None:
        written = {s.name: s for s in planned.packed.parts.values()} | written
    return probe_packed.applied(planned, written)


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.01, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_no_false_alarm(kind: str, rounding: str, share: float, tmp_path: Path) -> None:
    weight = WEIGHTS[kind](tmp_path, (64, 96))
    logical = weight.packed.logical()
    size = share * float(torch.linalg.norm(weight.values))
    for seed in range(3):
        update = lora((logical.rows, logical.columns), size, seed=20 * seed)
        assert judge(tmp_path, edit(weight, update, rounding, seed)) == ""


@pytest.mark.parametrize("rank", [1, 4, 16])
@pytest.mark.parametrize("kind", ["nf4", "nf4_double", "fp4", "int8", "fp8_block", "mxfp4"])
def test_no_false_alarm_however_feedback_moves(kind: str, rank: int, tmp_path: Path) -> None:
    """Some of so many elements are moved far by what others left over."""
    weight = WEIGHTS[kind](tmp_path, (128, 256) if kind != "mxfp4" else (64, 64))
    logical = weight.packed.logical()
    for seed, share in enumerate((0.003, 0.02, 0.02, 0.02, 0.06, 0.2)):
        size = share * float(torch.linalg.norm(weight.values))
        update = lora((logical.rows, logical.columns), size, rank, 20 * seed)
        assert judge(tmp_path, edit(weight, update, "adapter", seed)) == ""


WRITERS: dict[str, Any] = {
    "nf4": nf4.writer(double_quant=False, block_size=64),
    "nf4 double": nf4.writer(double_quant=True, block_size=64),
    "fp4": fp4.writer(double_quant=False, block_size=128),
    "fp4 double": fp4.writer(double_quant=True, block_size=64),
    "int8": int8.writer(double_quant=False, block_size=64),
}


def outliers(rows: int, columns: int) -> torch.Tensor:
    """A few rows a hundred times as large as the others, some of nothing."""
    weight = normal((rows, columns))
    weight[3] *= 100
    weight[7:9] *= 1e-4
    weight[11] = 0
    return weight


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("target", WRITERS)
@pytest.mark.parametrize("shape", [(64, 96), (600, 64)], ids=str)
def test_no_false_alarm_with_fresh_scales(
    shape: tuple[int, int], target: str, rounding: str, share: float, tmp_path: Path
) -> None:
    update = lora(shape, share * float(torch.linalg.norm(outliers(*shape))))
    repack = Repack(codec=WRITERS[target], kept=False, rounding=rounding)
    weight = four("nf4", False, tmp_path, shape, outliers(*shape))
    assert judge(tmp_path, edit(weight, update, repack=repack)) == ""
    save_file({W: outliers(*shape).bfloat16()}, tmp_path / "plain.safetensors")
    source = tensorfile.read_header(tmp_path / "plain.safetensors").tensors[W]
    for turned in (False, True):
        planned = Edit(
            name=W, dtype="BF16", source=source, updates=(update,), repack=repack, turned=turned
        )
        assert judge(tmp_path, planned) == ""


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_no_false_alarm_for_dora(rounding: str, tmp_path: Path) -> None:
    weight = WEIGHTS["nf4"](tmp_path, (64, 96))
    low = lora((64, 96), 0.2 * float(torch.linalg.norm(weight.values)))
    norm = torch.linalg.norm(weight.values, dim=1)[None] * 1.05
    dora = Dora(low, Held(norm), by_column=False)
    assert judge(tmp_path, edit(weight, dora, rounding)) == ""
    assert judge(tmp_path, edit(weight, [dora, low], rounding)) == ""
    assert judge(tmp_path, edit(weight, dora, repack=None)) == ""


def test_it_shares_no_arithmetic_with_the_merge(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adaptertools import packed_tiles, requantise, sinks
    from adaptertools.update.lowrank import LowRank

    def never(*given: object, **named: object) -> None:
        raise AssertionError("verify used the merge's own arithmetic")

    out = merged(street, "nf4 kept", tmp_path / "out")
    for owner, name in (
        (requantise.Rounder, "ranks"), (requantise.Dice, "roll"), (sinks._Kept, "store"),
        (packed_tiles, "run_packed"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, never)
    monkeypatch.setattr("adaptertools.verbs._survival.foreseen", lambda edits: [])
    monkeypatch.setattr(LowRank, "open", never)
    assert at.verify(out).ok
