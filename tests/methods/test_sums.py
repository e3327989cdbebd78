"""What is wrong with an adapter of AdaLoRA, VeRA, RandLoRA, VB-LoRA, LoHa or LoKr is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import adaptertools as at
from adaptertools.errors import AdapterToolsError, Mismatch, Unreadable, Unsupported
from tests import handmade

Q = f"{handmade.START}model.layers.0.self_attn.q_proj."
noise = handmade.noise

# A whole adapter on the handmade q_proj (8, 8) of each method: tensors, and config.
WHOLE: dict[str, tuple[handmade.Arrays, dict[str, Any]]] = {
    "ADALORA": (
        {f"{Q}lora_A": noise(2, 8), f"{Q}lora_B": noise(8, 2), f"{Q}lora_E": noise(2, 1)},
        {"init_r": 4, "lora_alpha": 8},
    ),
    "VERA": (
        {
            f"{Q}vera_lambda_b": noise(8), f"{Q}vera_lambda_d": noise(3),
            "base_model.vera_A": noise(3, 16), "base_model.vera_B": noise(16, 3),
        },
        {"save_projection": True, "projection_prng_key": 0},
    ),
    "PVERA": (
        {
            f"{Q}pvera_lambda_b": noise(8), f"{Q}pvera_lambda_d": noise(6),
            "base_model.pvera_A": noise(6, 16), "base_model.pvera_B": noise(16, 3),
        },
        {"save_projection": True},
    ),
    "RANDLORA": (
        {
            f"{Q}randlora_lambda": noise(4, 2), f"{Q}randlora_gamma": noise(2, 8),
            "base_model.randlora_A": noise(4, 1, 8), "base_model.randlora_B": noise(16, 2, 4),
        },
        {"r": 4, "randlora_alpha": 8, "save_projection": True, "projection_prng_key": 0},
    ),
    "VBLORA": (
        {
            f"{Q}vblora_logits_A": noise(2, 2, 5), f"{Q}vblora_logits_B": noise(2, 2, 5),
            "base_model.vblora_vector_bank": noise(5, 4),
        },
        {"r": 2, "topk": 2},
    ),
    "LOHA": (
        {f"{Q}hada_w{n}_{x}": noise(*s) for n in "12" for x, s in (("a", (8, 2)), ("b", (2, 8)))},
        {"r": 2, "alpha": 4},
    ),
    "LOKR": ({f"{Q}lokr_w1": noise(2, 4), f"{Q}lokr_w2": noise(4, 2)}, {"r": 2, "alpha": 4}),
}  # fmt: skip

Change = Callable[[handmade.Arrays, dict[str, Any]], object]


def nothing(tensors: handmade.Arrays, config: dict[str, Any]) -> None:
    """Change nothing."""


def planned(folder: Path, method: str, change: Change = nothing) -> at.MergePlan:
    """Plan a merge of the whole adapter, changed."""
    tensors, config = dict(WHOLE[method][0]), dict(WHOLE[method][1])
    change(tensors, config)
    (folder / "adapter").mkdir()
    save_file(tensors, folder / "adapter" / "adapter_model.safetensors", {"format": "pt"})
    said = json.dumps({"peft_type": method, "target_modules": ["q_proj"], **config})
    (folder / "adapter" / "adapter_config.json").write_text(said)
    base = handmade.base(folder / "base")
    return at.plan(folder / "adapter", base=base, out=folder / "out")


@pytest.mark.parametrize("method", WHOLE)
def test_whole_adapters_merge(method: str, tmp_path: Path) -> None:
    edits = planned(tmp_path, method).edits
    assert [edit.name for edit in edits] == ["model.layers.0.self_attn.q_proj.weight"]
    assert set(edits[0].parts) == {n for n in WHOLE[method][0] if n.startswith(Q)}


@pytest.mark.parametrize(
    ("method", "name"), [(m, n) for m, whole in WHOLE.items() for n in whole[0]], ids=str
)
def test_every_tensor_is_needed(method: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterToolsError, match=name.rpartition(".")[2][:-1]):
        planned(tmp_path, method, lambda tensors, config: tensors.pop(name))


@pytest.mark.parametrize(
    ("method", "name"), [(m, n) for m, whole in WHOLE.items() for n in whole[0]], ids=str
)
def test_every_shape_counts(method: str, name: str, tmp_path: Path) -> None:
    def cut(tensors: handmade.Arrays, config: dict[str, Any]) -> None:
        tensors[name] = np.ascontiguousarray(tensors[name].reshape(-1)[:-1].reshape(-1, 1))

    with pytest.raises((Mismatch, Unreadable)):
        planned(tmp_path, method, cut)


NEEDED = [
    (m, key) for m, whole in WHOLE.items() for key in whole[1]
    if key not in ("save_projection", "projection_prng_key")
]  # fmt: skip


@pytest.mark.parametrize(("method", "key"), NEEDED, ids=str)
@pytest.mark.parametrize("value", [None, "4", True, float("nan")], ids=str)
def test_every_number_of_the_config_is_needed(
    method: str, key: str, value: Any, tmp_path: Path
) -> None:
    with pytest.raises(Unreadable, match=key):
        planned(tmp_path, method, lambda tensors, config: config.update({key: value}))


@pytest.mark.parametrize("method", ["VERA", "PVERA", "RANDLORA"])
def test_no_projections_and_no_seed(method: str, tmp_path: Path) -> None:
    def strip(tensors: handmade.Arrays, config: dict[str, Any]) -> None:
        for name in [n for n in tensors if not n.startswith(Q)]:
            del tensors[name]
        config.update(save_projection=False, projection_prng_key=None, sparse=True)

    with pytest.raises(Unreadable, match="no projection_prng_key"):
        planned(tmp_path, method, strip)


def test_dense_bases_that_were_not_saved(tmp_path: Path) -> None:
    def strip(tensors: handmade.Arrays, config: dict[str, Any]) -> None:
        del tensors["base_model.randlora_A"], tensors["base_model.randlora_B"]
        config["save_projection"] = False

    with pytest.raises(Unsupported, match="bfloat16 or float16"):
        planned(tmp_path, "RANDLORA", strip)


def test_bases_that_are_not_shared(tmp_path: Path) -> None:
    own = {f"{Q}randlora_A": noise(4, 1, 8, seed=1)}
    with pytest.raises(Mismatch, match="is not the base_model"):
        planned(tmp_path, "RANDLORA", lambda tensors, config: tensors.update(own))


def test_a_sampled_pvera(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="sample_at_inference"):
        planned(tmp_path, "PVERA", lambda t, config: config.update(sample_at_inference=True))


def test_places_past_the_bank(tmp_path: Path) -> None:
    def name(tensors: handmade.Arrays, config: dict[str, Any]) -> None:
        for x in "AB":
            del tensors[f"{Q}vblora_logits_{x}"]
            tensors[f"{Q}vblora_logits_{x}_topk_indices"] = np.full((2, 2, 2), 5, np.uint8)
            tensors[f"{Q}vblora_logits_{x}_topk_weights"] = noise(2, 2, 1)

    with pytest.raises(Mismatch, match="past the 5 of the bank"):
        planned(tmp_path, "VBLORA", name)


@pytest.mark.parametrize("method", WHOLE)
def test_tensors_that_no_release_has(method: str, tmp_path: Path) -> None:
    start = next(n for n in WHOLE[method][0] if n.startswith(Q)).removeprefix(Q)[:12]
    odd = {f"{Q}{start}_odd": noise(3)}
    with pytest.raises(Unsupported, match=f"{method} has no tensor of that name"):
        planned(tmp_path, method, lambda tensors, config: tensors.update(odd))
