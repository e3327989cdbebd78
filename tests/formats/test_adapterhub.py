"""What `adapters` saved, read by PEFT after us, computes what the model of `adapters` computed."""

import json
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import adaptertools as at
from adaptertools.formats.peft import WEIGHTS
from tests.cases_recipe import quiet
from tests.formats.adapterhub_models import BASES, CASES, FIXTURES, base, outputs

EXACT = ("lora", "lora-bert", "lora-gpt2", "lora-gpt2-k", "ia3", "ia3-gpt2", "dora", "vera",
         "prefix", "prefix-flat")  # fmt: skip
NEEDS_BASE = ("dora", "prefix", "prefix-flat")


def saved(name: str, folder: Path) -> Path:
    """Save a base as transformers does."""
    with quiet():
        base(name).save_pretrained(folder)
    return folder


def peft(name: str, folder: Path) -> torch.Tensor:
    """Give what PEFT makes of a folder."""
    with quiet():
        return outputs(PeftModel.from_pretrained(base(name), str(folder)).eval())


@pytest.mark.parametrize("case", EXACT)
def test_peft_computes_the_same(case: str, tmp_path: Path) -> None:
    named = CASES[case].base
    needed = saved(named, tmp_path / "base") if case in NEEDS_BASE else None
    report = at.convert(FIXTURES / case, to="peft", out=tmp_path / "out", base=needed)
    assert report.facts["from"] == "adapterhub"
    expected = torch.from_numpy(np.load(FIXTURES / "outputs.npz")[case]).double()
    torch.testing.assert_close(peft(named, tmp_path / "out"), expected, rtol=0, atol=1e-5)
    assert (outputs(base(named)) - expected).abs().max() > 0.1


@pytest.mark.parametrize("case", ["lora-bert", "lora-gpt2", "ia3", "ia3-gpt2", "vera", "dora"])
def test_merged_as_it_is(case: str, tmp_path: Path) -> None:
    """A merge reads AdapterHub's folder, and the model computes what `adapters` computed."""
    named = CASES[case].base
    at.merge(FIXTURES / case, base=saved(named, tmp_path / "base"), out=tmp_path / "out")
    kind = BASES[named][0]
    with quiet():
        model = kind.from_pretrained(tmp_path / "out", attn_implementation="eager")
    expected = torch.from_numpy(np.load(FIXTURES / "outputs.npz")[case]).double()
    torch.testing.assert_close(outputs(model.eval()), expected, rtol=0, atol=1e-5)


def test_factors_stay_as_they_are(tmp_path: Path) -> None:
    at.convert(FIXTURES / "lora-bert", to="peft", out=tmp_path / "out")
    before = load_file(FIXTURES / "lora-bert" / "adapter.safetensors")
    after = load_file(tmp_path / "out" / WEIGHTS)
    named = {
        f"base_model.model.{name.replace('.loras.tiny', '')}.weight": tensor
        for name, tensor in before.items()
    }
    assert named.keys() == after.keys()
    assert all(torch.equal(named[name], after[name]) for name in named)


def test_old_versions_trained_with_alpha_as_the_rank(tmp_path: Path) -> None:
    for version, scale in {"adapters.0.2.1": 1.0, "adapters.1.0.1": 1.0, "adapters.1.1.0": 2.0,
                           "3.2.1": 2.0, "adapters.x": 2.0}.items():  # fmt: skip
        folder = tmp_path / version
        copytree(FIXTURES / "lora", folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "version": version}))
        assert {entry.scale for entry in at.open(folder).entries} == {scale}
