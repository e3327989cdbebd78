"""What marks each method's tensors, what its modules share, and methods that are mixed up."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import adaptertools as at
from adaptertools import peft_keys
from adaptertools.errors import Mismatch, Unsupported
from adaptertools.formats._peft_methods import METHODS, common, marker
from tests import handmade

Q = "model.layers.0.self_attn.q_proj"
START = handmade.START


def test_markers_are_pefts() -> None:
    mapping = pytest.importorskip("peft.mapping").PEFT_TYPE_TO_PREFIX_MAPPING
    prefixes = {getattr(kind, "value", kind): prefix for kind, prefix in mapping.items()}
    assert {kind: marker(kind) for kind in prefixes} == prefixes
    assert set(METHODS) - {"BONE"} <= prefixes.keys()


@pytest.mark.parametrize(
    ("method", "name", "role"),
    [
        ("GLORA", "glora_A.Xd", "glora_A.Xd"),
        ("GLORA", "glora_A.default.Xd", "glora_A.Xd"),
        ("OSF", "osf_svd_params.U_low", "osf_svd_params.U_low"),
        ("PSOFT", "psoft_R.weight", "psoft_R"),
        ("PSOFT", "psoft_R.vector_a", "psoft_R.vector_a"),
        ("PEANUT", "peanut_encoders.0.weight", "peanut_encoders.0"),
        ("OFT", "oft_R.weight", "oft_R"),
        ("OFT", "oft_R.default.weight", "oft_R"),
        ("LN_TUNING", "ln_tuning_layers.bias", "ln_tuning_layers.bias"),
        ("VERA", "vera_lambda_b", "vera_lambda_b"),
        ("ADALORA", "lora_E", "lora_E"),
    ],
)
def test_roles(method: str, name: str, role: str) -> None:
    key = peft_keys.parse(f"{START}{Q}.{name}", marker(method), Counter())
    assert (key.target, key.role) == (Q, role)
    assert key.adapter == ("default" if "default" in name else "")


SHARED = {
    "base_model.vera_A": ("VERA", "vera_A"),
    "base_model.vera_A.default": ("VERA", "vera_A"),
    "module.base_model.vera_B": ("VERA", "vera_B"),
    "vera_B": ("VERA", "vera_B"),
    "base_model.frod_V.mlp_down_proj": ("FROD", "frod_V.mlp_down_proj"),
    "base_model.unilora_theta_d": ("UNILORA", "unilora_theta_d"),
    f"{START}{Q}.randlora_A": ("RANDLORA", ""),
    "base_model.pvera_A": ("VERA", ""),
    "base_model.lora_A": ("LORA", ""),
}


@pytest.mark.parametrize("name", SHARED)
def test_shared_tensors(name: str) -> None:
    method, role = SHARED[name]
    assert common([name], method) == ({name: role} if role else {})


def planned(folder: Path, tensors: handmade.Arrays, **config: Any) -> at.MergePlan:
    """Plan merging an adapter of these tensors into the handmade base."""
    base = handmade.base(folder / "base")
    adapter = handmade.adapter(folder / "adapter", tensors, **config)
    return at.plan(adapter, base=base, out=folder / "out")


@pytest.mark.parametrize("method", ["LOHA", "VERA", "IA3", "OFT"])
def test_tensors_of_lora_under_another_config(method: str, tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match=f"says {method}, and .*lora_A.* is a tensor of LORA"):
        planned(tmp_path, handmade.lora_tensors(), peft_type=method)


def test_tensors_of_another_method_under_loras_config(tmp_path: Path) -> None:
    tensors = {
        f"{START}{Q}.lokr_w1": handmade.noise(2, 2),
        f"{START}{Q}.lokr_w2": handmade.noise(4),
    }
    with pytest.raises(Mismatch, match=r"says LORA, and .*lokr_w1 is a tensor of LOKR"):
        planned(tmp_path, tensors)


def test_lora_under_adaloras_config(tmp_path: Path) -> None:
    with pytest.raises(at.errors.Unreadable, match=r"_proj has no lora_E"):
        planned(tmp_path, handmade.lora_tensors(), peft_type="ADALORA", init_r=4)


def test_tensors_that_the_method_does_not_know(tmp_path: Path) -> None:
    tensors = handmade.lora_tensors() | {f"{START}{Q}.lora_E": handmade.noise(2, 1)}
    with pytest.raises(Unsupported, match=r"q_proj\.lora_E: LORA has no tensor of that name"):
        planned(tmp_path, tensors)
    assert not (tmp_path / "out").exists()
