"""Merging 16-bit bases into fewer bits: what transformers makes at load, from files alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptertools as at
from tests.kit_quant import *

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Streets:
    return Streets(tmp_path_factory.mktemp("streets"))


# From 16 bits


def check_from_16_bit(
    streets: Streets, kind: str, dtype: str, packing: str, adapter: Path, folder: Path,
    shard_size: str = "5GB",
) -> None:  # fmt: skip
    base = streets.base(kind, dtype, shard_size)
    out = merge(adapter, base, folder / "out", **PACKINGS[packing].options)
    plain = merge(adapter, base, folder / "plain", quant="keep")
    ours = loaded(kind, out)
    theirs = quantise_at_load(KINDS[kind], plain, PACKINGS[packing])
    assert same_state(ours, theirs) == []
    theirs.save_pretrained(folder / "theirs")
    assert_same_files(out, folder / "theirs")
    said, wanted = config_of(out), config_of(folder / "theirs")
    skip = said["quantization_config"].pop("llm_int8_skip_modules")
    assert wanted["quantization_config"].pop("llm_int8_skip_modules") is None
    assert said["quantization_config"] == wanted["quantization_config"]
    assert said | {"transformers_version": ""} == config_of(base) | {
        "quantization_config": said["quantization_config"], "transformers_version": "",
    }  # fmt: skip
    head = "lm_head" if kind != "bert" else "embeddings.word_embeddings"
    assert head in skip
    assert torch.equal(logits(ours), logits(theirs))


@every_packing
@every_kind
def test_from_16_bit_is_what_transformers_makes_at_load(
    kind: str, packing: str, streets: Streets, tmp_path: Path
) -> None:
    check_from_16_bit(streets, kind, "BF16", packing, streets.adapter(kind), tmp_path)


@pytest.mark.parametrize("dtype", ["F16", "F32"])
@pytest.mark.parametrize("packing", ["nf4", "fp4_double", "int8"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_from_other_dtypes(
    kind: str, packing: str, dtype: str, streets: Streets, tmp_path: Path
) -> None:
    check_from_16_bit(streets, kind, dtype, packing, streets.adapter(kind), tmp_path)


@pytest.mark.parametrize("packing", ["nf4_double", "int8"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_from_shards(kind: str, packing: str, streets: Streets, tmp_path: Path) -> None:
    check_from_16_bit(streets, kind, "BF16", packing, streets.adapter(kind), tmp_path, "60KB")
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
    plain = dequantised(merge(adapter, base, tmp_path / "plain"))
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
@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt_projected"])
def test_the_original_is_merged_and_packed_once(
    kind: str, packing: str, streets: Streets, tmp_path: Path
) -> None:
    base, parent, adapter = streets.packed(kind, packing), streets.base(kind), streets.adapter(kind)
    how: dict[str, Any] = {"base_weights": "original", "original": str(parent)}
    out = merge(adapter, base, tmp_path / "out", **how)
    direct = merge(adapter, parent, tmp_path / "direct", **PACKINGS[packing].options)
    assert_same_files(out, direct)
    assert config_of(out) == config_of(direct)
    bare = merge(adapter, base, tmp_path / "bare", quant="none", **how)
    assert_same_files(bare, merge(adapter, parent, tmp_path / "plain"))
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


def mixed(streets: Streets, folder: Path) -> Path:
    """A base of which some linear layers are in 16 bit."""
    from tests.kit_quant import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["lm_head", "down_proj", "model.layers.1.self_attn"],
    )  # fmt: skip
    model = KINDS["llama"].load(streets.base("llama"), quantization_config=config, device_map="cpu")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "how",
    [{}, {"quant": "none"}, {"quant": "int8"}, {"quant": "nf4", "double_quant": True},
     {"base_weights": "original"}, {"base_weights": "original", "quant": "int8"}],
    ids=str,
)  # fmt: skip
def test_a_base_that_is_packed_in_part(how: dict[str, Any], streets: Streets, tmp_path: Path) -> None:
    base, adapter = mixed(streets, tmp_path / "mixed"), streets.adapter("llama")
    if "base_weights" in how:
        how = how | {"original": str(streets.base("llama"))}
    out = merge(adapter, base, tmp_path / "out", **how)
    was = {n for n in read(base) if n.endswith(".absmax")}
    now = {n.replace(".SCB", ".weight.absmax") for n in read(out) if n.endswith((".absmax", ".SCB"))}
    assert now == (was if how.get("quant") != "none" else set())
    kept = read(out)["model.layers.1.mlp.down_proj.weight"]
    assert kept.dtype == torch.bfloat16
    ours = logits(loaded("llama", out))
    plain = logits(loaded("llama", merge(adapter, streets.base("llama"), tmp_path / "plain")))
    assert torch.linalg.norm(ours - plain) < 0.5 * torch.linalg.norm(plain)
