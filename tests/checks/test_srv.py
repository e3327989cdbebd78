"""What serving targets take: the table is whole, and each target is told what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

import adaptertools as at
from adaptertools import serving
from adaptertools.report import Level
from tests.checks import tiny
from tests.checks.make_srv import added, dora, head, pickled, unprefixed

TARGETS = serving.known()
LEVELED = {
    "modules_to_save", "dora", "bias", "rank", "rank_pattern", "alpha_pattern", "use_rslora",
    "scale", "fractional_alpha", "targets_list", "embeddings", "other_methods", "pickles",
    "exact_names", "other_tensors", "added_tokens",
}  # fmt: skip
OTHERS = {
    "required", "modules_allowed", "largest_rank", "usual_rank", "suffixes", "refused", "dtypes",
    "bases", "own_format",
}  # fmt: skip


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return tiny.adapter(tmp_path / "adapter")


@pytest.mark.parametrize("name", TARGETS)
def test_the_table_is_whole(name: str) -> None:
    profile = TARGETS[name]
    assert profile.version
    assert profile.source
    assert profile.rules.keys() <= LEVELED | OTHERS
    assert all(profile.rules[key] in get_args(Level) for key in profile.rules.keys() & LEVELED)


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"mlx", "openvino"}))
def test_a_plain_lora_is_taken_by_everyone(name: str, adapter: Path) -> None:
    assert at.validate(adapter, target=name).findings == ()


def codes(folder: Path, target: str) -> set[str]:
    """Give the codes of what a target says, with the level's first letter."""
    report = at.validate(folder, target=target, select=["SRV"])
    assert all(f.text.startswith(f"{target} ") for f in report.findings)
    return {f"{f.code}{f.level[0]}" for f in report.findings}


def said(**changes: Any) -> Any:
    return lambda folder: tiny.set_config(folder, **changes)


# What is done, and what each target says of it: as it is documented, or was seen.
TABLE: dict[str, tuple[Any, dict[str, str]]] = {
    "dora": (dora, {"vllm": "SRV002e SRV011e", "sglang": "SRV002e", "lorax": "SRV002e",
                    "llama.cpp": "SRV002e", "ollama": "SRV002e", "peft": ""}),
    "alpha_pattern": (said(alpha_pattern={"q_proj": 8}), {
        "vllm": "", "sglang": "SRV005e", "lorax": "SRV005e", "tgi": "SRV005e",
        "tensorrt-llm": "SRV005e", "llama.cpp": "SRV005e", "ollama": "SRV005e",
        "onnxruntime": "SRV005e", "openvino": "SRV005ew", "plain": "SRV005e", "peft": ""}),
    "rank_pattern": (said(rank_pattern={"x": 4}), {
        "vllm": "", "sglang": "SRV005e", "llama.cpp": "", "lorax": "SRV005e"}),
    "rslora": (said(use_rslora=True), {
        "vllm": "", "sglang": "SRV005e", "lorax": "", "tgi": "", "llama.cpp": "SRV005e",
        "ollama": "SRV005e", "plain": "SRV005e"}),
    "bias": (said(bias="all"), {"vllm": "SRV003e", "llama.cpp": "SRV003e", "peft": ""}),
    "lora_bias": (said(lora_bias=True), {"vllm": "SRV003e", "sglang": "SRV003w"}),
    "rank 64": (said(r=64), {"vllm": "SRV004w", "max": "SRV004w", "sglang": ""}),
    "rank 1024": (said(r=1024), {"vllm": "SRV004e", "max": "SRV004w"}),
    "no alpha": (said(lora_alpha=tiny.DROP), {"vllm": "SRV006e", "sglang": "SRV006e", "peft": ""}),
    "targets null": (said(target_modules=None), {"vllm": "SRV006e", "sglang": "SRV006e"}),
    "expression": (said(target_modules=".*"), {"vllm": "", "sglang": "SRV006e"}),
    "head": (head, {"vllm": "SRV007w", "plain": "SRV007e", "peft": ""}),
    "another method": (said(peft_type="IA3"), {"vllm": "SRV008e", "ollama": "SRV008e", "peft": ""}),
    "pickle": (pickled, {"vllm": "", "sglang": "", "lorax": "SRV009w", "ollama": "SRV009e"}),
    "added tokens": (added, {"vllm": "SRV010w", "sglang": "SRV010e"}),
    "no prefix": (unprefixed, {"vllm": "", "lorax": "SRV011e", "peft": "SRV011e"}),
    "pissa": (said(init_lora_weights="pissa_niter_4"), {"vllm": "SRV012e", "sglang": ""}),
    "alora": (said(alora_invocation_tokens=[1]), {"vllm": "SRV012e"}),
    "whole alpha": (said(lora_alpha=4.5), {"vllm": "", "ollama": "SRV005e"}),
    "mlx": (said(), {"mlx": "SRV011e"}),
    "scale": (said(), {"openvino": "SRV005w"}),
    "scale of one": (said(lora_alpha=2), {"openvino": ""}),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_targets(name: str, adapter: Path) -> None:
    change, expected = TABLE[name]
    change(adapter)
    for target, words in expected.items():
        flat = {word[:6] + letter for word in words.split() for letter in word[6:]}
        assert codes(adapter, target) == flat, target


def test_ollama_takes_two_architectures(adapter: Path, tmp_path: Path) -> None:
    for kind, count in (("llama", 0), ("gemma2", 0), ("qwen3", 1)):
        base = tiny.base(tmp_path / kind, model_type=kind)
        found = at.validate(adapter, base=base, target="ollama", select=["SRV"]).findings
        assert len(found) == count


def test_openvino_reads_three_dtypes(adapter: Path) -> None:
    tiny.set_config(adapter, lora_alpha=2)
    tiny.set_tensors(adapter, lambda held: {n: a.astype("f8") for n, a in held.items()})
    assert codes(adapter, "openvino") == {"SRV012e"}
