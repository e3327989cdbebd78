"""Packed bases and options that cannot be: one sentence, exit code 1, and nothing is written."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from tests import tiny_llama as tiny
from tests.cli import assert_refused, contents, run
from tests.kit_quant import KINDS, Streets, change

torch.set_num_threads(1)

Q = "model.layers.0.self_attn.q_proj"
Spoil = Callable[[Path], object]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Streets:
    return Streets(tmp_path_factory.mktemp("streets"))


@pytest.fixture
def street(streets: Streets, tmp_path: Path) -> Path:
    """A 16-bit base, packed ones, and an adapter."""
    shutil.copytree(streets.base("llama"), tmp_path / "plain")
    for packing in ("nf4", "nf4_double", "int8"):
        shutil.copytree(streets.packed("llama", packing), tmp_path / packing)
    shutil.copytree(streets.small("llama"), tmp_path / "adapter")
    return tmp_path


def store(base: str, edit: Callable[[Tensors], Tensors]) -> Spoil:
    """Write the tensors of a base again, changed."""

    def spoil(folder: Path) -> None:
        file = folder / base / "model.safetensors"
        save_file(edit(load_file(file)), file, {"format": "pt"})

    return spoil


def without(base: str, *names: str) -> Spoil:
    return store(base, lambda t: {n: v for n, v in t.items() if n not in names})


def instead(base: str, name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    return store(base, lambda t: t | {name: make(t[name]).contiguous()})


def said(base: str, **keys: Any) -> Spoil:
    return lambda f: change(f / base / "config.json", keys)


def state(base: str, **keys: Any) -> Spoil:
    """Change what a quant_state says."""

    def make(old: torch.Tensor) -> torch.Tensor:
        text = json.dumps(json.loads(bytes(old.tolist())) | keys)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    return instead(base, f"{Q}.weight.quant_state.bitsandbytes__nf4", make)


def repacked(absmax: torch.Tensor) -> torch.Tensor:
    """As bitsandbytes leaves it after a forward pass on a CPU with AVX512-BF16."""
    return absmax.reshape(64, 1).T.bfloat16()


def nan(folder: Path) -> None:
    file = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if "q_proj.lora_A" in n)
    tensors[name][1, 1] = torch.nan
    save_file(tensors, file, {"format": "pt"})


def adapt(**how: Any) -> Spoil:
    """Another adapter."""

    def spoil(folder: Path) -> None:
        shutil.rmtree(folder / "adapter")
        KINDS["llama"].adapt(folder / "plain", folder / "adapter", **how)

    return spoil


def unlinear(folder: Path) -> None:
    """A base, and an adapter for it, of nothing but an embedding."""
    tensors = {
        n: t for n, t in load_file(folder / "plain" / "model.safetensors").items()
        if not n.endswith("_proj.weight") and n != "lm_head.weight"
    }  # fmt: skip
    save_file(tensors, folder / "plain" / "model.safetensors", {"format": "pt"})
    adapt(target_modules=["embed_tokens"])(folder)


def other_parent(folder: Path) -> None:
    tensors = load_file(folder / "plain" / "model.safetensors")
    wide = {n: t[:, :32] if n.endswith("q_proj.weight") else t for n, t in tensors.items()}
    wide = {n: t.contiguous() for n, t in wide.items()}
    tiny.save_base(folder / "other", wide)


def nothing(folder: Path) -> None:
    pass


NF4, DOUBLE, INT8, PLAIN = (
    "--base {f}/nf4",
    "--base {f}/nf4_double",
    "--base {f}/int8",
    "--base {f}/plain",
)
STATE = f"{Q}.weight.quant_state.bitsandbytes__nf4"
CASES: dict[str, tuple[Spoil, str, tuple[str, ...]]] = {
    # Packings that are not known
    "gptq": (said("nf4", quant_method="gptq", load_in_4bit=None, bits=4), NF4, ("GPTQ", "16-bit")),
    "awq": (said("nf4", quant_method="awq", load_in_4bit=None), NF4, ("AWQ", "16-bit", "--base")),
    "unheard of": (
        said("nf4", quant_method="q\x1b7", load_in_4bit=None), NF4, (r"q\x1b7", "--base")
    ),
    "config forgotten": (
        lambda f: (f / "nf4" / "config.json").write_text(
            json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
        ),
        NF4, ("no quantization_config", "bitsandbytes"),
    ),
    "config of another": (
        said("nf4", quant_method="fp8", load_in_4bit=None), NF4, ("bitsandbytes", "fp8")
    ),
    # Parts missing
    "absmax alone": (
        without("nf4", f"{Q}.weight", f"{Q}.weight.quant_map", STATE), NF4, (Q, "missing")
    ),
    "no absmax": (without("nf4", f"{Q}.weight.absmax"), NF4, (f"{Q}.weight.absmax", "missing")),
    "no quant_state": (without("nf4", STATE), NF4, (Q, "quant_state", "missing")),
    "no nested_absmax": (
        without("nf4_double", f"{Q}.weight.nested_absmax"), DOUBLE, ("nested_absmax", "missing")
    ),
    "no codes": (without("nf4", f"{Q}.weight"), NF4, (f"{Q}.weight", "missing")),
    "no SCB": (without("int8", f"{Q}.SCB"), INT8, (f"{Q}.SCB", "missing")),
    "no int8 codes": (without("int8", f"{Q}.weight"), INT8, (f"{Q}.weight", "missing")),
    # Parts that disagree
    "another shape": (state("nf4", shape=[64, 128]), NF4, (Q, "[64, 128]")),
    "another block size": (state("nf4", blocksize=128), NF4, (f"{Q}.weight.absmax", "128")),
    "no block size": (state("nf4", blocksize=48), NF4, (Q, "blocksize", "48")),
    "another kind": (state("nf4", quant_type="fp4"), NF4, (Q, "fp4", "nf4")),
    "three axes": (state("nf4", shape=[4, 16, 64]), NF4, (Q, "matri")),
    "a state of control characters": (
        state("nf4", dtype="\x1b[2J"), NF4, (Q, "dtype", r"\x1b[2J")
    ),
    "a state that is no JSON": (
        instead("nf4", STATE, lambda t: t[:-3]), NF4, (Q, "quant_state", "not JSON")
    ),
    "too few scales": (
        instead("nf4", f"{Q}.weight.absmax", lambda t: t[:-1]), NF4, (f"{Q}.weight.absmax", "63")
    ),
    "repacked by a CPU": (
        instead("nf4", f"{Q}.weight.absmax", repacked), NF4, (Q, "BF16", "transposed", "again")
    ),
    "scales in 16 bit": (
        instead("nf4", f"{Q}.weight.absmax", torch.Tensor.half), NF4, ("absmax", "F16", "F32")
    ),
    "scales of other rows": (
        instead("int8", f"{Q}.SCB", lambda t: t[:-1]), INT8, (f"{Q}.SCB", "63", "64")
    ),
    "int8 in another order": (
        instead("int8", f"{Q}.weight_format", lambda t: t + 1), INT8,
        (f"{Q}.weight_format", "1", "row"),
    ),
    # What is asked for
    "odd block size": (nothing, PLAIN + " --quant 4bit --block-size 48", ("48", "--block-size")),
    "large block size": (nothing, PLAIN + " --quant nf4 --block-size 8192", ("8192", "4096")),
    "no block at all": (nothing, PLAIN + " --quant nf4 --block-size 0", ("0", "--block-size")),
    "negative block size": (nothing, PLAIN + " --quant nf4 --block-size -64", ("-64",)),
    "block size of int8": (nothing, PLAIN + " --quant 8bit --block-size 64", ("--block-size",)),
    "block size that is kept": (nothing, NF4 + " --block-size 128", ("--block-size", "--quant")),
    "int8 doubled": (nothing, PLAIN + " --quant int8 --double-quant", ("--double-quant", "nf4")),
    "doubled and kept": (nothing, NF4 + " --double-quant", ("--double-quant", "--quant")),
    "nothing linear": (unlinear, PLAIN + " --quant 4bit", ("no linear", "--quant")),
    "rounding of nothing": (nothing, PLAIN + " --rounding stochastic", ("--rounding",)),
    "too much retention": (nothing, NF4 + " --min-retention 2", ("--min-retention", "0 to 1")),
    "negative retention": (nothing, NF4 + " --min-retention -0.1", ("--min-retention",)),
    "retention of potatoes": (nothing, NF4 + " --min-retention nan", ("--min-retention",)),
    "retention of nothing": (nothing, PLAIN + " --min-retention 0.5", ("--min-retention",)),
    "nearest on its grid": (
        nothing, NF4 + " --rounding nearest", ("nearest", "1%", "--force", "--quant 8bit")
    ),
    "original of a plain base": (
        nothing, PLAIN + " --base-weights original", ("not packed", "--base-weights")
    ),
    "original unknown": (
        lambda f: adapt()(f) or said_base(f, "org/packed"), NF4 + " --base-weights original",
        ("--original",),
    ),
    "original packed too": (
        nothing, NF4 + " --base-weights original --original {f}/int8", ("int8", "packed as well")
    ),
    "original of another": (
        other_parent, NF4 + " --base-weights original --original {f}/other",
        ("other", f"{Q}.weight", "--original"),
    ),
    "original not there": (
        nothing, NF4 + " --base-weights original --original {f}/none", ("none", "no such folder")
    ),
    "original without effect": (nothing, NF4 + " --original {f}/plain", ("--original",)),
    # Adapters that cannot be merged into a packed base
    "NaN": (nan, NF4, ("NaN", "--allow-nonfinite")),
    "NaN in int8": (nan, INT8, ("NaN", "--allow-nonfinite")),
    "NaN on the way to nf4": (nan, PLAIN + " --quant 4bit", ("NaN", "--allow-nonfinite")),
    "NaN that codes cannot hold": (nan, NF4 + " --allow-nonfinite", ("q_proj", "not finite")),
    "saved whole": (
        adapt(target_modules=["q_proj"], modules_to_save=["down_proj"]), NF4,
        ("down_proj.weight", "nf4", "16-bit", "--base"),
    ),
    "more layers": (
        adapt(layer_replication=[[0, 2], [1, 2]]), NF4, ("layer_replication", "16-bit")
    ),
    "of another width": (
        lambda f: state("nf4", shape=[32, 128])(f), NF4, (f"{Q}.weight", "64×64", "32×128")
    ),
}  # fmt: skip


def said_base(folder: Path, name: str) -> None:
    """Let the adapter name another base."""
    file = folder / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": name}))


@pytest.mark.parametrize("case", CASES)
def test_merge_refuses(case: str, street: Path) -> None:
    spoil, args, words = CASES[case]
    spoil(street)
    before = contents(street)
    out = street / "out"
    for more in ((), ("--dry-run",)):
        done = run("merge", street / "adapter", *args.format(f=street).split(), "--out", out, *more)
        if more and "NaN" in case:
            assert done.code in (0, 1)
        else:
            assert_refused(done, *words)
        assert contents(street) == before


@pytest.mark.parametrize("kind", ["4bits", "gguf", ""])
def test_a_packing_that_is_none_is_a_matter_of_usage(kind: str, street: Path) -> None:
    args = ("merge", street / "adapter", "--base", street / "nf4", "--out", street / "out")
    done = run(*args, "--quant", kind)
    assert done.code == 2
    assert "--quant" in done.err
    with pytest.raises(at.errors.Unsupported, match="--quant"):
        at.plan(street / "adapter", base=street / "nf4", out=street / "out", quant=kind)
    with pytest.raises(at.errors.Unsupported, match="--rounding"):
        at.plan(street / "adapter", base=street / "nf4", out=street / "out", rounding="up")
    assert not (street / "out").exists()


def test_nearest_is_let_through_by_force(street: Path) -> None:
    args = ("merge", street / "adapter", "--base", street / "nf4", "--out", street / "out")
    done = run(*args, "--rounding", "nearest", "--force", "--verify", "--quiet")
    assert (done.code, done.err) == (0, "")
    report = at.verify(street / "out")
    assert report.ok
    receipt = json.loads((street / "out" / "adaptertools.json").read_text())
    kept = [e["rounding"]["retention"]["kept"] for e in receipt["edits"]]
    assert max(kept) < 0.2
    assert {f["code"] for f in receipt["findings"]} >= {"MRG040"}


@pytest.mark.parametrize(
    "args", ["--quant none", "--quant 8bit", "--rounding nearest --quant 8bit"]
)
def test_nearest_is_no_loss_where_the_grid_is_another(args: str, street: Path) -> None:
    done = run(
        "merge", street / "adapter", "--base", street / "nf4", "--out", street / "out",
        *args.split(), "--quiet",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")


def test_out_may_not_lie_inside_the_original(street: Path) -> None:
    before = contents(street)
    for out in ("plain", "plain/out", "nf4/out", "adapter/out"):
        done = run(
            "merge", street / "adapter", "--base", street / "nf4", "--out", street / out,
            "--base-weights", "original", "--original", street / "plain",
        )  # fmt: skip
        assert_refused(done, "inside one another")
    assert contents(street) == before


@pytest.mark.parametrize(
    "args",
    ["", "--quant none", "--quant 8bit", "--quant fp4 --double-quant", "--rounding stochastic",
     "--min-retention 0.99", "--base-weights original --original {f}/plain"],
)  # fmt: skip
def test_a_dry_run_writes_nothing(args: str, street: Path) -> None:
    before = contents(street)
    done = run(
        "merge", street / "adapter", "--base", street / "nf4", "--out", street / "out",
        *args.format(f=street).split(), "--dry-run",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert "plan" in done.out
    assert contents(street) == before


def test_names_of_strangers_are_escaped(street: Path) -> None:
    evil = "model.\x1b[2Jlayers\n.weight"
    store("nf4", lambda t: t | {f"{evil}.absmax": torch.ones(3)})(street)
    done = run("merge", street / "adapter", "--base", street / "nf4", "--out", street / "out")
    assert_refused(done, r"model.\x1b[2Jlayers\n.weight")


def test_a_receipt_of_a_packed_merge_that_is_damaged(street: Path) -> None:
    at.merge(street / "adapter", base=street / "nf4", out=street / "out")
    file = street / "out" / "adaptertools.json"
    said = json.loads(file.read_text())
    for options in ({"quant": "gptq"}, {"rounding": "up"}, {"min_retention": 7}, {"seed": "x"}):
        file.write_text(json.dumps(said | {"options": said["options"] | options}))
        done = run("verify", street / "out")
        assert done.code == 1
        assert done.err.startswith("error: ")
        assert "bug" not in done.err


def test_double_quantisation_without_torch(street: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else is done without."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    before = contents(street)
    args = ("merge", street / "adapter", "--base", street / "plain", "--out", street / "out")
    assert_refused(run(*args, "--quant", "nf4", "--double-quant"), "torch", "adaptertools[")
    assert contents(street) == before
    assert run(*args, "--quant", "nf4", "--quiet").code == 0
    again = ("merge", street / "adapter", "--base", street / "nf4_double", "--quiet", "--out")
    assert run(*again, street / "kept").code == 0
    assert run(*again, street / "eight", "--quant", "8bit").code == 0
    for name in ("out", "kept", "eight"):
        assert run("verify", street / name).code == 0
