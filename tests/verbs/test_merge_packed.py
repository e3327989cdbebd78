"""Merging into packed bases, against bitsandbytes and PEFT: scales stay, and the update is in."""

import json
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptertools as at
from tests.kit import rounded_once, ulp_distance
from tests.kit_quant import (
    KINDS,
    PACKINGS,
    Streets,
    assert_same_files,
    config_of,
    decoded_fp8,
    dequantised,
    identical,
    loaded,
    logits,
    merge,
    packed_in_part,
    packed_weights,
    peft_merged,
    quantise_at_load,
    read,
    same_state,
    save_fp8,
    side,
)
from tests.tiny_llama import contents

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Streets:
    return Streets(tmp_path_factory.mktemp("streets"))


# From packed bases: nothing for nothing


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize(
    ("kind", "rounding"),
    [("llama", "adapter"), ("llama", "stochastic"), ("llama", "nearest"), ("gpt2", "adapter")],
)
def test_a_zero_update_leaves_every_byte(
    rounding: str, kind: str, packing: str, streets: Streets, tmp_path: Path
) -> None:
    base = streets.packed(kind, packing)
    zero = streets.adapter(kind, "zero", zero=True)
    out = merge(zero, base, tmp_path / "out", rounding=rounding)
    for file in base.glob("*.safetensors"):
        assert (out / file.name).read_bytes() == file.read_bytes()
    assert config_of(out) == config_of(base)


# From packed bases: scales are kept


@pytest.mark.parametrize(
    ("kind", "packing"),
    [*((k, p) for k in ("llama", "gpt2") for p in PACKINGS), ("bert", "nf4_double")],
)
def test_only_codes_change(kind: str, packing: str, streets: Streets, tmp_path: Path) -> None:
    base = streets.packed(kind, packing)
    out = merge(streets.small(kind), base, tmp_path / "out")
    before, after = read(base), read(out)
    assert after.keys() == before.keys()
    changed = {n for n in before if not identical(before[n], after[n])}
    targets = {n for n in before if n.endswith(tuple(f"{t}.weight" for t in KINDS[kind].targets))}
    assert changed == targets
    assert config_of(out) == config_of(base)
    model = loaded(kind, out)
    moved = torch.linalg.norm(logits(model) - logits(KINDS[kind].load(base)))
    assert 0 < moved < 0.8 * torch.linalg.norm(logits(model))


def through_pickle(call: Any, jobs: Any) -> list[Any]:
    """A map that hands jobs to someone else, as a pool of processes does."""
    return [pickle.loads(pickle.dumps(call))(pickle.loads(pickle.dumps(job))) for job in jobs]


@pytest.mark.parametrize("rounding", ["adapter", "stochastic"])
def test_a_seed_gives_the_same_whoever_works(
    rounding: str, streets: Streets, tmp_path: Path
) -> None:
    base, adapter = streets.packed("llama", "nf4_double"), streets.small("llama")
    ways: dict[str, dict[str, Any]] = {
        "one": {"max_workers": 1}, "many": {"max_workers": 7}, "shards": {"max_shard_size": 25_000},
        "mapped": {"map": through_pickle}, "seed": {"seed": 1},
    }  # fmt: skip
    outs = {
        name: read(merge(adapter, base, tmp_path / name, rounding=rounding, **how))
        for name, how in ways.items()
    }
    codes = [n for n in outs["one"] if n.endswith("_proj.weight")]
    for name in ("many", "shards", "mapped"):
        assert outs[name].keys() == outs["one"].keys()
        assert all(identical(outs[name][n], t) for n, t in outs["one"].items())
    assert not any(identical(outs["seed"][n], outs["one"][n]) for n in codes)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) >= 3
    loaded("llama", tmp_path / "shards")


def test_dtype_leaves_what_lies_beside_codes(streets: Streets, tmp_path: Path) -> None:
    for packing in ("nf4", "nf4_double", "int8"):
        base = streets.packed("llama", packing)
        out = merge(streets.small("llama"), base, tmp_path / packing, dtype="float16")
        before, after = read(base), read(out)
        assert all(identical(t, after[n]) for n, t in side(before).items())
        assert after["model.norm.weight"].dtype == torch.float16
        loaded("llama", out)


# From packed bases to 16 bit


@pytest.mark.parametrize("packing", ["nf4", "fp4_double", "int8"])
@pytest.mark.parametrize("kind", ["llama", "opt_projected", "gpt2", "bert"])
def test_to_16_bit_is_what_peft_adds_to_the_decoded_weights(
    kind: str, packing: str, streets: Streets, tmp_path: Path
) -> None:
    base, adapter = streets.packed(kind, packing), streets.adapter(kind)
    out = merge(adapter, base, tmp_path / "out", quant="none")
    ours = read(out)
    expected = streets.expected(kind, packing)
    assert ours.keys() == expected.keys()
    for name, exact in expected.items():
        assert ours[name].dtype == torch.bfloat16
        wanted = rounded_once(exact, torch.bfloat16)
        # The sum is made in float32: near zero its last bits are those of the terms.
        near = (ours[name].double() - exact).abs() <= 2**-22 * exact.abs().max()
        assert bool(((ulp_distance(ours[name], wanted) <= 1) | near).all()), name
    assert "quantization_config" not in config_of(out)
    assert loaded(kind, out).dtype == torch.bfloat16


def test_to_16_bit_in_float32(streets: Streets, tmp_path: Path) -> None:
    base, adapter = streets.packed("llama", "nf4"), streets.adapter("llama")
    out = merge(adapter, base, tmp_path / "out", quant="none", dtype="float32")
    expected = streets.expected("llama", "nf4")
    for name, tensor in read(out).items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor.double(), expected[name], rtol=0, atol=1e-6)
    loaded("llama", out)


# From packed bases to other packings


@pytest.mark.parametrize("target", ["nf4", "fp4", "int8", "nf4_double"])
@pytest.mark.parametrize("source", ["nf4_double", "int8"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_to_another_packing(
    kind: str, source: str, target: str, streets: Streets, tmp_path: Path
) -> None:
    base, adapter = streets.packed(kind, source), streets.adapter(kind)
    out = merge(adapter, base, tmp_path / "out", **PACKINGS[target].options)
    expected = streets.expected(kind, source)
    found, packed = dequantised(out), packed_weights(out)
    for name, exact in expected.items():
        got = found[name].T if kind == "gpt2" and name in packed else found[name]
        error = torch.linalg.norm(got - exact) / torch.linalg.norm(exact)
        assert error < (0.06 if target == "int8" else 0.3), name
    said = config_of(out)["quantization_config"]
    assert said["load_in_8bit"] == (target == "int8")
    assert said["bnb_4bit_use_double_quant"] == target.endswith("double") or source == target
    ours = logits(loaded(kind, out))
    plain = logits(loaded(kind, streets.unpacked(kind, source)))
    off = torch.linalg.norm(ours - plain) / torch.linalg.norm(plain)
    assert off < (0.1 if target == "int8" else 0.5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_to_int8_by_nearest_is_what_bitsandbytes_makes_of_the_16_bit_merge(
    kind: str, streets: Streets, tmp_path: Path
) -> None:
    base, adapter = streets.packed(kind, "nf4"), streets.adapter(kind)
    out = merge(adapter, base, tmp_path / "out", quant="8bit")
    plain = streets.unpacked(kind, "nf4")
    theirs = quantise_at_load(KINDS[kind], plain, PACKINGS["int8"])
    assert same_state(loaded(kind, out), theirs) == []


def test_what_is_asked_for_twice_is_kept(streets: Streets, tmp_path: Path) -> None:
    for packing, quant in (("nf4_double", "4bit"), ("fp4", "fp4"), ("int8", "8bit")):
        base = streets.packed("llama", packing)
        one = merge(streets.small("llama"), base, tmp_path / f"{packing}-1", quant=quant)
        two = merge(streets.small("llama"), base, tmp_path / f"{packing}-2")
        assert_same_files(one, two)


# Float8 bases: torch writes them, and transformers loads what comes out

BLOCK = (16, 32)


@pytest.mark.parametrize("rounding", ["adapter", "stochastic", "nearest"])
def test_float8_keeps_every_byte_of_nothing(
    rounding: str, streets: Streets, tmp_path: Path
) -> None:
    base = save_fp8(streets.base("llama"), tmp_path / "base", BLOCK, static=True)
    zero = streets.adapter("llama", "zero", zero=True)
    out = merge(zero, base, tmp_path / "out", rounding=rounding)
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()


def test_float8_keeps_its_scales(streets: Streets, tmp_path: Path) -> None:
    base = save_fp8(streets.base("llama"), tmp_path / "base", BLOCK)
    adapter = streets.small("llama")
    out = merge(adapter, base, tmp_path / "out", dtype="float16")
    before, after = read(base), read(out)
    assert all(identical(after[n], t) for n, t in before.items() if n.endswith("_scale_inv"))
    codes = [n for n, t in before.items() if t.dtype == torch.float8_e4m3fn]
    assert not any(identical(after[n], before[n]) for n in codes)
    exact = read(merge(adapter, base, tmp_path / "plain", quant="none", dtype="float32"))
    start, found = decoded_fp8(base, BLOCK), decoded_fp8(out, BLOCK)
    change = {n: exact[n].double() - start[n] for n in codes}
    kept = sum(float(((found[n] - start[n]) * d).sum()) for n, d in change.items())
    assert kept / sum(float((d**2).sum()) for d in change.values()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("target", ["none", "nf4", "int8"])
def test_float8_to_another_packing(
    target: str, static: bool, streets: Streets, tmp_path: Path
) -> None:
    base = save_fp8(streets.base("llama"), tmp_path / "base", BLOCK, static)
    out = merge(streets.adapter("llama"), base, tmp_path / "out", quant=target)
    assert not [n for n in read(out) if n.endswith(("_scale_inv", "activation_scale"))]
    ours, plain = (logits(loaded("llama", f)) for f in (out, streets.plain("llama")))
    off = torch.linalg.norm(ours - plain) / torch.linalg.norm(plain)
    assert off < (0.5 if target == "nf4" else 0.2)
    assert ("quantization_config" in config_of(out)) == (target != "none")


# Several adapters, other methods: against PEFT on the decoded base

METHODS: dict[str, tuple[list[dict[str, Any]], list[float]]] = {
    "dora": ([{"use_dora": True}], [1.0]),
    "rslora": ([{"use_rslora": True, "r": 8}], [1.0]),
    "half": ([{}], [0.5]),
    "two": ([{}, {"r": 8, "lora_alpha": 4}], [1.0, 0.3]),
    "minus": ([{}], [-1.0]),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_update_is_the_one_that_peft_makes(
    kind: str, method: str, streets: Streets, tmp_path: Path
) -> None:
    hows, scales = METHODS[method]
    adapters = [
        streets.adapter(kind, f"{method}-{i}" if how else "lora", **how)
        for i, how in enumerate(hows)
    ]
    decoded = streets.decoded(kind, "nf4")
    before, expected = read(decoded), peft_merged(KINDS[kind], decoded, adapters, scales)
    out = merge(adapters, streets.packed(kind, "nf4"), tmp_path / "out", scale=scales)
    how: dict[str, Any] = {"scale": scales, "quant": "none"}
    plain = merge(adapters, streets.packed(kind, "nf4"), tmp_path / "plain", **how)
    found, exact, packed = dequantised(out), read(plain), packed_weights(out)
    kept = energy = 0.0
    for name, wanted in expected.items():
        change = wanted - before[name]
        if not change.any():
            continue
        torch.testing.assert_close(exact[name].double(), wanted, rtol=2**-8, atol=1e-5)
        got = found[name].T if kind == "gpt2" and name in packed else found[name]
        kept += float(((got - before[name]) * change).sum())
        energy += float((change**2).sum())
    assert kept / energy == pytest.approx(1, abs=0.08)


# Left in 16 bit


@pytest.mark.parametrize(
    ("kind", "quant"),
    [("llama", "keep"), ("llama", "int8"), ("llama", "fp4"), ("gpt2", "keep"), ("gpt2", "fp4"),
     ("opt_projected", "keep"), ("bert", "keep")],
)  # fmt: skip
def test_weak_modules_stay_in_16_bit(
    kind: str, quant: str, streets: Streets, tmp_path: Path
) -> None:
    base, adapter = streets.packed(kind, "nf4"), streets.small(kind)
    before = at.plan(adapter, base=base, out=tmp_path / "never", quant=quant)
    kept = sorted(r.retention.kept for r in before.foreseen if r.retention)
    least = min((kept[len(kept) // 2] + kept[len(kept) // 2 - 1]) / 2, 1)
    out = merge(adapter, base, tmp_path / "out", quant=quant, min_retention=least)
    weak = {r.tensor for r in before.foreseen if r.retention and r.retention.kept < least}
    assert 0 < len(weak) < len(kept)
    stored, skip = read(out), config_of(out)["quantization_config"]["llm_int8_skip_modules"]
    for name in weak:
        assert stored[name].dtype == torch.bfloat16
        assert name.removesuffix(".weight") in skip
        assert not any(n.startswith(f"{name}.") for n in stored)
    for r in before.foreseen:
        if r.tensor not in weak:
            assert stored[r.tensor].dtype in (torch.uint8, torch.int8)
    exact = read(merge(adapter, base, tmp_path / "plain", quant="none"))
    for name in weak:
        assert identical(stored[name], exact[name])
    model = loaded(kind, out)
    assert torch.isfinite(logits(model)).all()
    # The result is a base like any other.
    merge(adapter, out, tmp_path / "again")


def test_all_modules_may_be_weak(streets: Streets, tmp_path: Path) -> None:
    base, adapter = streets.packed("gpt2", "nf4"), streets.adapter("gpt2")
    out = merge(adapter, base, tmp_path / "out", min_retention=1.0)
    assert torch.isfinite(logits(loaded("gpt2", out))).all()


# What was told


def test_the_receipt_tells_what_became_of_the_update(streets: Streets, tmp_path: Path) -> None:
    base, adapter = streets.packed("llama", "nf4"), streets.small("llama")
    report = at.merge(adapter, base=base, out=tmp_path / "out", seed=5)
    receipt = json.loads((tmp_path / "out" / "adaptertools.json").read_text())
    assert receipt["options"]["seed"] == 5
    before, after = dequantised(base), dequantised(tmp_path / "out")
    expected = peft_merged(KINDS["llama"], streets.decoded("llama", "nf4"), [adapter], [1.0])
    for edit in receipt["edits"]:
        name, said = edit["tensor"], edit["rounding"]["retention"]
        assert edit["packing"] == {
            "from": "nf4",
            "to": "nf4",
            "scales": "kept",
            "rounding": "adapter",
            "seed": 5,
        }
        change, moved = expected[name] - before[name], after[name] - before[name]
        kept = float((moved * change).sum() / (change**2).sum())
        assert said["kept"] == pytest.approx(kept, abs=1e-3)
        noise = torch.linalg.norm(moved - change) / torch.linalg.norm(before[name])
        assert said["noise"] == pytest.approx(float(noise), rel=1e-3)
        assert said["nearest"] < 0.2
    summary = report.facts["retention"]
    assert summary["tensors"] == len(receipt["edits"])
    assert 0.9 < summary["kept"] < 1.1
    (text,) = [f.text for f in report.findings if f.code == "MRG045"]
    assert "accuracy" in text
    assert text.startswith("Nearest rounding would have kept 1% of this adapter")


# Old and odd configs


def test_a_config_from_before_quant_method(streets: Streets, tmp_path: Path) -> None:
    base = shutil.copytree(streets.packed("llama", "nf4"), tmp_path / "old")
    keep = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    said = config_of(base)
    (base / "config.json").write_text(json.dumps(said | {"quantization_config": keep}))
    assert same_state(loaded("llama", base), loaded("llama", streets.packed("llama", "nf4"))) == []
    out = merge(streets.small("llama"), base, tmp_path / "out")
    new = merge(streets.small("llama"), streets.packed("llama", "nf4"), tmp_path / "new")
    assert_same_files(out, new)
    loaded("llama", merge(streets.small("llama"), base, tmp_path / "eight", quant="int8"))
    loaded("llama", merge(streets.small("llama"), base, tmp_path / "bare", min_retention=1.0))


@pytest.mark.parametrize("storage", ["bfloat16", "float32"])
def test_codes_in_the_guise_of_floats(storage: str, streets: Streets, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", streets.small("llama")
    packed_in_part(KINDS["llama"], streets.base("llama"), base, bnb_4bit_quant_storage=storage)
    stored = read(base)["model.layers.0.mlp.down_proj.weight"]
    assert stored.dtype == getattr(torch, storage)
    for more in ({}, {"dtype": "float16"}):
        out = merge(adapter, base, tmp_path / f"out{len(more)}", **more)
        new = merge(adapter, streets.packed("llama", "nf4"), tmp_path / f"new{len(more)}", **more)
        ours, plain = read(out), read(new)
        for name, tensor in ours.items():
            same = tensor.view(torch.uint8) if name.endswith("_proj.weight") else tensor
            assert identical(same.reshape(plain[name].shape), plain[name]), name
        loaded("llama", out)
    zero = merge(streets.adapter("llama", "zero", zero=True), base, tmp_path / "zero")
    assert all(identical(read(zero)[n], t) for n, t in read(base).items())


# Going on


def test_going_on_gives_the_same(streets: Streets, tmp_path: Path) -> None:
    base, adapter = streets.packed("llama", "nf4"), streets.small("llama")
    how: dict[str, Any] = {"base": base, "max_shard_size": 30_000, "max_workers": 1}
    at.merge(adapter, out=tmp_path / "whole", **how)
    counts: list[int] = []
    at.merge(adapter, out=tmp_path / "counted", progress=counts.append, **how)
    for moment in (1, len(counts) // 3, 2 * len(counts) // 3, len(counts) - 1):
        out, left = tmp_path / f"out{moment}", iter(range(moment))

        def interrupt(count: int, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            at.merge(adapter, out=out, progress=interrupt, **how)
        assert out.with_name(out.name + ".partial").exists()
        at.merge(adapter, out=out, resume=True, **how)
        assert contents(out) == contents(tmp_path / "whole")


def test_other_options_are_another_plan(streets: Streets, tmp_path: Path) -> None:
    base, adapter = streets.packed("llama", "nf4"), streets.small("llama")
    ways: list[dict[str, Any]] = [
        {}, {"seed": 1}, {"rounding": "stochastic"}, {"quant": "fp4"}, {"quant": "none"},
        {"quant": "fp4", "double_quant": True}, {"quant": "fp4", "block_size": 128},
    ]  # fmt: skip
    plans = [at.plan(adapter, base=base, out=tmp_path / "out", **how) for how in ways]
    assert len({plan.digest for plan in plans}) == len(ways)
    again = at.plan(adapter, base=base, out=tmp_path / "out")
    assert again.digest == plans[0].digest
    assert not (tmp_path / "out").exists()


KILLED = """
import sys, time
import adaptertools as at

def progress(count):
    print(count, flush=True)
    time.sleep(0.01)

base, adapter, out = sys.argv[1:]
at.merge(adapter, base=base, out=out, max_shard_size=30_000, max_workers=1, progress=progress)
"""


@pytest.mark.parametrize("steps", [2, 30])
def test_killed_and_resumed(steps: int, streets: Streets, tmp_path: Path) -> None:
    base, adapter = streets.packed("llama", "nf4"), streets.small("llama")
    how: dict[str, Any] = {"base": str(base), "max_shard_size": 30_000}
    at.merge(str(adapter), out=tmp_path / "whole", **how)
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(base), str(adapter), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(steps):
            process.stdout.readline()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    at.merge(str(adapter), out=out, resume=True, **how)
    assert contents(out) == contents(tmp_path / "whole")
