"""What PEFT trained and saved is sound: nothing is found in it that is not so.

The adapters are those that merging is tested with, made by PEFT in many variants.
"""

from pathlib import Path

import pytest
import torch

import adaptertools as at
from tests.cases_recipe import quiet
from tests.kit import CASES

# What is known to be odd about a case: case -> codes. Everything else must be free of faults.
KNOWN: dict[str, set[str]] = {
    "multihead_attention": {"SEC003", "BAS001"},  # a class of the tests, in no repository
    "conv2d_3x3": {"SEC003", "BAS001"},
    "resized": {"BAS008"},  # the base that it is held against was not resized, and PEFT raises
    "resized_targets": {"BAS008"},
    "tied_lm_head": {"BAS009"},
    "tied_save_embedding": {"BAS009"},
    "linear_llama": set(), "regex_llama": set(), "some_layers": set(), "conv1d_gpt2_head": set(),
    "embedding_gpt2": set(), "all_linear_llama": set(), "linear_opt": set(), "dora_linear": set(),
    "dora_gpt2_head": set(), "bdlora": set(), "lora_bias": set(), "bias_all": set(),
    "bias_lora_only": set(), "tokens": set(), "save_lm_head": set(), "save_norms": set(),
    "tied_ensured": set(), "tied_ensured_embedding": set(), "replicated": set(),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_nothing_is_found(name: str, tmp_path: Path) -> None:
    with quiet():
        CASES[name].build(tmp_path, torch.float32)
    # The bases have paths for names, and no cards; most of what is saved are whole embeddings.
    beside = ["BAS002", "CRD", "FIL"]
    report = at.validate(
        tmp_path / "adapter",
        base=tmp_path / "base",
        deep=True,
        ignore=beside,
        peft_version="0.21.2",
    )
    found = [finding for finding in report.findings if finding.level != "note"]
    assert {finding.code for finding in found} == KNOWN[name], found
