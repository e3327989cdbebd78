"""Merging 16-bit bases into fewer bits: what transformers makes at load, from files alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptertools as at
from tests.kit_quant import (
    KINDS,
    PACKINGS,
    Streets,
    assert_same_files,
    config_of,
    dequantised,
    identical,
    loaded,
    logits,
    merge,
    packed_in_part,
    quantise_at_load,
    read,
    same_state,
    side,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Streets:
    return Streets(tmp_path_factory.mktemp("streets"))


# From 16 bits


def check(
    kind: str, packing: str, base: Path, plain: Path, adapter: Path, folder: Path
) -> dict[str, Any]:
    """Hold a merge into fewer bits against the plain merge, packed by transformers at load."""
    out = merge(adapter, base, folder / "out", **PACKINGS[packing].options)
    ours, theirs = loaded(kind, out), quantise_at_load(KINDS[kind], plain, PACKINGS[packing])
    assert same_state(ours, theirs) == []
    theirs.save_pretrained(folder / "theirs")
    if kind != "mixtral":  # whose experts transformers stores under other names
        assert_same_files(out, folder / "theirs")
    said, wanted = (config_of(f)["quantization_config"] for f in (out, folder / "theirs"))
    skip = said.pop("llm_int8_skip_modules")
    assert wanted.pop("llm_int8_skip_modules") is None
    assert said == wanted
    assert ("lm_head" if kind != "bert" else "embeddings.word_embeddings") in skip
    mine = config_of(out)
    assert mine.pop("quantization_config")
    assert mine == config_of(base)
    assert torch.equal(logits(ours), logits(theirs))
    return {"skip": skip}


FAST = ["nf4_double", "fp4", "int8"]


@pytest.mark.parametrize(
    ("kind", "packing"),
    [(kind, packing) for kind in ("llama", "gpt2") for packing in PACKINGS]
    + [(kind, p) for kind in ("opt", "opt_projected", "bert", "qwen2", "mixtral") for p in FAST],
)
def test_from_16_bit_is_what_transformers_makes_at_load(
    kind: str, packing: str, streets: Streets, tmp_path: Path
) -> None:
    check(
        kind, packing, streets.base(kind), streets.plain(kind), streets.adapter(kind), tmp_path
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["F16", "F32"])
@pytest.mark.parametrize("packing", FAST)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_from_other_dtypes(
    kind: str, packing: str, dtype: str, streets: Streets, tmp_path: Path
) -> None:
    base, plain = streets.base(kind, dtype), streets.plain(kind, dtype)
    check(kind, packing, base, plain, streets.adapter(kind), tmp_path)


def test_experts_stay_in_16_bit_and_it_is_said(streets: Streets, tmp_path: Path) -> None:
    base = streets.base("mixtral")
    report = at.merge(streets.adapter("mixtral"), base=base, out=tmp_path / "out", quant="4bit")
    (said,) = [f for f in report.findings if f.code == "MRG041"]
    tensors = read(base)
    share = sum(t.numel() for n, t in tensors.items() if ".experts." in n)
    share /= sum(t.numel() for t in tensors.values())
    assert said.level == "warning"
    assert f"{share:.0%} of all parameters" in said.text
    out = read(tmp_path / "out")
    assert all(identical(out[n], t) for n, t in tensors.items() if ".experts." in n)


@pytest.mark.parametrize("packing", ["nf4_double", "int8"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_from_shards(kind: str, packing: str, streets: Streets, tmp_path: Path) -> None:
    base = streets.base(kind, "BF16", "60KB")
    check(kind, packing, base, streets.plain(kind), streets.adapter(kind), tmp_path)
    out = tmp_path / "out"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    tensors = read(out)
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())


@pytest.mark.parametrize("packing", ["nf4", "int8"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_adapter_of_nothing_only_packs(
    kind: str, packing: str, streets: Streets, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = at.merge(
        streets.adapter(kind, "zero", zero=True), base=streets.base(kind), out=out,
        **PACKINGS[packing].options,
    )  # fmt: skip
    assert {f.code for f in report.findings if f.level == "warning"} == {"MRG030"}
    assert_same_files(out, streets.packed(kind, packing))


@pytest.mark.parametrize("block", [32, 128, 4096])
def test_block_sizes(block: int, streets: Streets, tmp_path: Path) -> None:
    base = streets.base("llama")
    adapter = streets.adapter("llama")
    out = merge(adapter, base, tmp_path / "out", quant="nf4", block_size=block)
    plain = dequantised(streets.plain("llama"))
    found = dequantised(out)
    for name in side(read(out)):
        if ".quant_state." in name:
            weight = name.partition(".quant_state.")[0]
            flat = plain[weight].reshape(-1)
            flat = torch.cat([flat, flat.new_zeros(-len(flat) % block)]).reshape(-1, block)
            assert torch.equal(read(out)[f"{weight}.absmax"].double(), flat.abs().amax(1))
            error = torch.linalg.norm(found[weight] - plain[weight])
            assert error < 0.15 * torch.linalg.norm(plain[weight])


def test_dtype_and_packing_together(streets: Streets, tmp_path: Path) -> None:
    base, adapter = streets.base("llama"), streets.adapter("llama")
    out = merge(adapter, base, tmp_path / "out", quant="nf4", dtype="float16")
    plain = merge(adapter, base, tmp_path / "plain", dtype="float16")
    theirs = quantise_at_load(KINDS["llama"], plain, PACKINGS["nf4"])
    assert same_state(loaded("llama", out), theirs) == []
    said = config_of(out)
    assert said["dtype"] == "float16"
    assert said["quantization_config"]["bnb_4bit_compute_dtype"] == "float16"


# The 16-bit original


@pytest.mark.parametrize("packing", ["nf4", "fp4_double", "int8"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_original_is_merged_and_packed_once(
    kind: str, packing: str, streets: Streets, tmp_path: Path
) -> None:
    base, parent, adapter = streets.packed(kind, packing), streets.base(kind), streets.adapter(kind)
    how: dict[str, Any] = {"base_weights": "original", "original": str(parent)}
    out = merge(adapter, base, tmp_path / "out", **how)
    direct = tmp_path / "direct"
    at.merge(adapter, base=parent, out=direct, **PACKINGS[packing].options)
    assert_same_files(out, direct)
    assert config_of(out) == config_of(direct)
    bare = merge(adapter, base, tmp_path / "bare", quant="none", **how)
    assert_same_files(bare, streets.plain(kind))
    assert config_of(bare) == config_of(parent)


def test_the_original_is_found_by_name(streets: Streets, tmp_path: Path) -> None:
    base = shutil.copytree(streets.packed("llama", "nf4"), tmp_path / "tiny-unsloth-bnb-4bit")
    shutil.copytree(streets.base("llama"), tmp_path / "tiny")
    adapter = streets.adapter("llama")
    out = merge(adapter, base, tmp_path / "out", base_weights="original")
    assert_same_files(out, merge(adapter, tmp_path / "tiny", tmp_path / "direct", quant="nf4"))


def test_both_errors_are_shown(streets: Streets, tmp_path: Path) -> None:
    for kind in ("llama", "gpt2"):
        report = at.merge(
            streets.adapter(kind), base=streets.packed(kind, "nf4"), out=tmp_path / kind,
            base_weights="original", original=str(streets.base(kind)),
        )  # fmt: skip
        text = next(f.text for f in report.findings if f.code == "MRG046")
        share = float(text.partition("by ")[2].partition("%")[0])
        before, decoded = read(streets.base(kind)), read(streets.decoded(kind, "nf4"))
        errors = sorted(
            float(torch.linalg.norm(decoded[n] - t.double()) / torch.linalg.norm(t.double()))
            for n, t in before.items()
            if t.ndim == 2 and not torch.equal(decoded[n], t.double())
        )
        assert share == pytest.approx(100 * errors[len(errors) // 2], abs=0.5)


@pytest.mark.parametrize(
    "how",
    [{}, {"quant": "none"}, {"quant": "int8"}, {"quant": "nf4", "double_quant": True},
     {"base_weights": "original"}, {"base_weights": "original", "quant": "int8"}],
    ids=str,
)  # fmt: skip
def test_a_base_that_is_packed_in_part(
    how: dict[str, Any], streets: Streets, tmp_path: Path
) -> None:
    skip = ("lm_head", "down_proj", "model.layers.1.self_attn")
    base = packed_in_part(KINDS["llama"], streets.base("llama"), tmp_path / "mixed", *skip)
    adapter = streets.adapter("llama")
    if "base_weights" in how:
        how = how | {"original": str(streets.base("llama"))}
    out = merge(adapter, base, tmp_path / "out", **how)
    was = {n for n in read(base) if n.endswith(".absmax")}
    now = {n.replace(".SCB", ".weight.absmax") for n in side(read(out))}
    now = {n for n in now if n.endswith("weight.absmax")}
    assert now == (was if how.get("quant") != "none" else set())
    kept = read(out)["model.layers.1.mlp.down_proj.weight"]
    assert kept.dtype == torch.bfloat16
    ours = logits(loaded("llama", out))
    plain = logits(loaded("llama", streets.plain("llama")))
    assert torch.linalg.norm(ours - plain) < 0.5 * torch.linalg.norm(plain)
