"""What a LoRA config may say, and which tensors make a whole LoRA."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adaptertools as at
from adaptertools.errors import Mismatch, Unreadable, Unsupported
from adaptertools.methods import _lora_config, lora
from tests import handmade

Q = f"{handmade.START}model.layers.0.self_attn.q_proj"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return handmade.base(tmp_path / "base")


def plan(
    base: Path, add: handmade.Arrays | None = None, take: str | None = None, **config: Any
) -> at.MergePlan:
    """Plan merging the LoRA with some tensors more or one less."""
    tensors = handmade.lora_tensors() | (add or {})
    tensors = {name: tensor for name, tensor in tensors.items() if name != take}
    folder = base.parent / f"adapter-{len(list(base.parent.iterdir()))}"
    return at.plan(handmade.adapter(folder, tensors, **config), base=base, out=base.parent / "out")


def check(**config: Any) -> None:
    """Check the config of the LoRA with some keys changed."""
    lora.check({**handmade.CONFIG, **config})


REFUSED: dict[str, Any] = {
    "alora_invocation_tokens": [1, 2],
    "arrow_config": {"top_k": 3},
    "use_qalora": True,
    "megatron_config": {"tensor_model_parallel_size": 2},
    "enable_lora": [True, False, True],
}
INITS = ["pissa", "pissa_niter_16", "PiSSA", "olora", "corda", "lora_ga", "loftq"]


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_no_fixed_change_is_refused_with_the_reason(key: str) -> None:
    with pytest.raises(Unsupported, match=rf"^{key} is set in adapter_config\.json\. \w+"):
        check(**{key: REFUSED[key]})


@pytest.mark.parametrize("key", REFUSED)
@pytest.mark.parametrize("unset", [None, False, [], {}], ids=str)
def test_what_is_not_set_is_not_refused(key: str, unset: Any) -> None:
    check(**{key: unset})


@pytest.mark.parametrize("init", INITS)
def test_inits_that_change_the_base_are_refused(init: str, base: Path) -> None:
    with pytest.raises(Unsupported, match=f'init_lora_weights is "{init}"') as caught:
        plan(base, init_lora_weights=init)
    way = "quantised base" if init == "loftq" else "path_initial_model_for_weight_conversion"
    assert way in str(caught.value)


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_inits_that_leave_the_base_alone(init: Any) -> None:
    check(init_lora_weights=init)


@pytest.mark.parametrize("init", ["xavier", "", 5, ["pissa"], {"a": 1}], ids=str)
def test_unknown_inits_are_refused(init: Any) -> None:
    with pytest.raises(Unsupported, match="which no PEFT release"):
        check(init_lora_weights=init)


@pytest.mark.parametrize("value", [1, True, "x", [0], {"a": None}], ids=str)
def test_unknown_keys_that_say_something_are_refused(value: Any) -> None:
    with pytest.raises(Unsupported, match=r"sets lora_gate to .*no PEFT"):
        check(lora_gate=value)


@pytest.mark.parametrize("value", [None, False, [], {}], ids=str)
def test_unknown_keys_that_say_nothing_are_not(value: Any) -> None:
    check(lora_gate=value)


def test_unknown_keys_are_escaped() -> None:
    with pytest.raises(Unsupported, match=r"sets a\\nb to \\x1b"):
        check(**{"a\nb": "\x1b[2J"})


def test_every_field_of_the_installed_peft_is_known() -> None:
    peft = pytest.importorskip("peft")
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert fields - _lora_config._KNOWN - _lora_config._REFUSED.keys() == set()


def test_default_config_of_the_installed_peft_is_accepted(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    peft.LoraConfig(r=4).save_pretrained(tmp_path)
    lora.check(at_config(tmp_path))


def at_config(folder: Path) -> dict[str, Any]:
    from adaptertools.formats.peft import read_config

    return read_config(folder / "adapter_config.json")


@pytest.mark.parametrize("role", ["lora_A", "lora_B"])
def test_half_a_pair(role: str, base: Path) -> None:
    with pytest.raises(Unreadable, match=rf"layers\.0\.self_attn\.q_proj has no {role}\. Half"):
        plan(base, take=f"{Q}.{role}.weight")


def test_rank_that_is_not_the_configs(base: Path) -> None:
    with pytest.raises(Mismatch, match="gives it rank 3, its lora_A has 2 rows"):
        plan(base, r=3)
    with pytest.raises(Mismatch, match=r"layers\.1.*gives it rank 4, its lora_A has 2 rows"):
        plan(base, rank_pattern={"layers.1.self_attn.q_proj": 4})


def test_factors_that_do_not_fit_one_another(base: Path) -> None:
    with pytest.raises(Mismatch, match=r"q_proj.*lora_B"):
        plan(base, {f"{Q}.lora_B.weight": handmade.noise(8, 3)})


@pytest.mark.parametrize("role", ["lora_A", "lora_B"])
def test_factors_that_are_no_floats(role: str, base: Path) -> None:
    name = f"{Q}.{role}.weight"
    with pytest.raises(Unsupported, match=f"{role}.*I8"):
        plan(base, {name: handmade.lora_tensors()[name].astype(np.int8)})


def test_update_of_another_shape(base: Path) -> None:
    with pytest.raises(Mismatch, match=r"q_proj\.weight: the update is 8×7, the weight is 8×8"):
        plan(base, {f"{Q}.lora_A.weight": handmade.noise(2, 7)})


def test_unknown_tensor_is_named(base: Path) -> None:
    with pytest.raises(Unsupported, match=r"q_proj\.lora_xyz\.weight: LORA has no tensor"):
        plan(base, {f"{Q}.lora_xyz.weight": handmade.noise(2, 8)})


def test_a_linear_and_an_embedding_in_one(base: Path) -> None:
    add = {f"{Q}.lora_embedding_A": handmade.noise(2, 8), f"{Q}.lora_embedding_B": np.eye(8, 2)}
    with pytest.raises((Unreadable, Unsupported), match="lora_embedding_A"):
        plan(base, {name: tensor.astype(np.float32) for name, tensor in add.items()})


def test_dora_without_a_magnitude(base: Path) -> None:
    with pytest.raises(Unreadable, match=r"has no lora_magnitude_vector.*use_dora is set"):
        plan(base, use_dora=True)


def test_dora_magnitude_of_another_length(base: Path) -> None:
    with pytest.raises(Mismatch, match=r"magnitude is \[7\], the weight has 8 outputs"):
        plan(base, {**magnitudes(), f"{Q}.lora_magnitude_vector": handmade.noise(7)}, use_dora=True)


def magnitudes() -> handmade.Arrays:
    """Give a magnitude of the right length for every module; all of them have eight outputs."""
    names = [n for n in handmade.lora_tensors() if n.endswith("lora_A.weight")]
    return {n.replace("lora_A.weight", "lora_magnitude_vector"): handmade.noise(8) for n in names}


def test_dora_with_all_magnitudes(base: Path) -> None:
    edits = plan(base, magnitudes(), use_dora=True).edits
    assert [[u["kind"] for u in edit.describe()["updates"]] for edit in edits] == [["dora"]] * 4


def test_kasa_without_its_singular_values(base: Path) -> None:
    with pytest.raises(Unreadable, match=r"has no lora_diag, and kasa_config is set"):
        plan(base, kasa_config={"beta": 1e-4})


def test_bias_without_one_in_the_base(base: Path) -> None:
    with pytest.raises(Mismatch, match=r"has a bias on lora_B, and the base has no bias there"):
        plan(base, {f"{Q}.lora_B.bias": handmade.noise(8)}, lora_bias=True)


SWITCHED = {
    "use_dora": ("lora_magnitude_vector", 8),
    "kasa_config": ("lora_diag", 2),
    "lora_bias": ("lora_B.bias", 8),
}


@pytest.mark.parametrize("key", SWITCHED)
def test_tensors_that_the_config_does_not_switch_on(key: str, base: Path) -> None:
    role, length = SWITCHED[key]
    with pytest.raises(Unreadable, match=f"has a {role}, and {key} is not set"):
        plan(base, {f"{Q}.{role}": handmade.noise(length)})


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_grouped_convolution(groups: int, tmp_path: Path) -> None:
    weight = {"plane.weight": handmade.noise(12, 6 // groups, 3, 3)}
    base = handmade.base(tmp_path / "base", weight, model_type="custom", architectures=["Custom"])
    name = f"{handmade.START}plane"
    factors = {f"{name}.lora_A.weight": handmade.noise(4, 6, 3, 3),
               f"{name}.lora_B.weight": handmade.noise(12, 4, 1, 1)}  # fmt: skip
    adapter = handmade.adapter(tmp_path / "adapter", factors, r=4, task_type=None)
    if groups == 1:
        assert len(at.plan(adapter, base=base, out=tmp_path / "out").edits) == 1
        return
    with pytest.raises(Unsupported, match="grouped convolution"):
        at.plan(adapter, base=base, out=tmp_path / "out")
