"""kohya's and diffusers' files: diffusers reads what we write, and the way back is equal."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools.errors import Mismatch, Unreadable, Unsupported
from adaptertools.formats._kohya_names import flattened, unflattened
from adaptertools.formats.peft import WEIGHTS
from tests.cases_recipe import quiet
from tests.formats import tiny_unet

CASES: dict[str, dict[str, Any]] = {
    "plain": {"lora_alpha": 6},
    "rslora": {"lora_alpha": 6, "use_rslora": True},
    "patterns": {"lora_alpha": 3, "rank_pattern": {"conv1": 2}, "alpha_pattern": {"to_v": 10}},
}
DORA = {**CASES, "dora": {"use_dora": True, "lora_alpha": 6}}
NAMES = {"diffusers": "pytorch_lora_weights.safetensors", "kohya": "lora.safetensors"}
Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("to", NAMES)
def test_diffusers_reads_it(to: str, case: str, tmp_path: Path) -> None:
    base = tiny_unet.unet()
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    expected = tiny_unet.adapter(tmp_path / "in", **CASES[case])
    report = at.convert(
        tmp_path / "in", to=to, out=tmp_path / "out.safetensors",
        options={"alpha": "one"} if to == "kohya" else {},
    )  # fmt: skip
    assert not report.findings
    with quiet():
        tensors, alphas, metadata = Loader.lora_state_dict(
            str(tmp_path / "out.safetensors"), return_lora_metadata=True, unet_config=base.config
        )
        Loader.load_lora_into_unet(tensors, alphas, base, adapter_name="one", metadata=metadata)
    torch.testing.assert_close(tiny_unet.said(base), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(expected, tiny_unet.said(tiny_unet.unet()), atol=1e-2)


@pytest.mark.parametrize("case", DORA)
@pytest.mark.parametrize("to", NAMES)
def test_there_and_back(to: str, case: str, tmp_path: Path) -> None:
    expected = tiny_unet.adapter(tmp_path / "in", **DORA[case])
    at.convert(tmp_path / "in", to=to, out=tmp_path / "out")
    assert (tmp_path / "out" / NAMES[to]).is_file()
    at.convert(tmp_path / "out" / NAMES[to], to="peft", out=tmp_path / "back")
    before, after = (load_file(tmp_path / name / WEIGHTS) for name in ("in", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    found = tiny_unet.with_peft(tmp_path / "back")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", DORA)
def test_lycoris_reads_it(case: str, tmp_path: Path) -> None:
    lycoris = pytest.importorskip("lycoris", reason="lycoris-lora is not installed")
    expected = tiny_unet.adapter(tmp_path / "in", **DORA[case])
    report = at.convert(tmp_path / "in", to="kohya", out=tmp_path / "out.safetensors")
    assert [f.code for f in report.findings] == ["CNV031"] * (case == "patterns")
    held = load_file(tmp_path / "out.safetensors")
    held = {name.replace("lora_unet_", "lycoris_"): tensor for name, tensor in held.items()}
    base = tiny_unet.unet()
    with quiet():
        network, _ = lycoris.create_lycoris_from_weights(1.0, "", base, held)
        network.apply_to()
    torch.testing.assert_close(tiny_unet.said(base), expected, rtol=0, atol=1e-5)


def kohya(path: Path, **more: torch.Tensor) -> Path:
    save_file({f"{Q}.lora_down.weight": torch.randn(2, 8),
               f"{Q}.lora_up.weight": torch.randn(8, 2)} | more, path)  # fmt: skip
    return path


def test_alpha(tmp_path: Path) -> None:
    for at_, (alpha, scale) in enumerate([(None, 1.0), (0.0, 1.0), (3.0, 1.5)]):
        more = {} if alpha is None else {f"{Q}.alpha": torch.tensor(alpha)}
        opened = at.open(kohya(tmp_path / f"{at_}.safetensors", **more))
        assert [entry.scale for entry in opened.entries] == [scale]
        assert opened.entries[0].target == (
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
        )


REFUSED: dict[str, tuple[dict[str, torch.Tensor], type[Exception], str]] = {
    "inputs are scaled": (
        {f"{Q}.dora_scale": torch.ones(1, 8)}, Unsupported, r"dora_scale is \[1, 8\], of inputs"),
    "another kind": ({f"{Q}.hada_w1_a": torch.ones(2)}, Unsupported, "hada_w1_a are no factors"),
    "half a pair": (
        {"lora_unet_conv_in.lora_up.weight": torch.ones(2)}, Unreadable, "conv_in has not both"),
    "sdxl": ({f"lora_unet_input_blocks_4_1_proj_in.lora_{x}.weight": torch.ones(2, 2)
              for x in ("up", "down")}, Unsupported, "SDXL or Flux"),
    "no words": ({f"lora_unet_odd_name.lora_{x}.weight": torch.ones(2, 2)
                  for x in ("up", "down")}, Unsupported, "exactly one way"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    more, kind, why = REFUSED[case]
    file = kohya(tmp_path / "in.safetensors", **more)
    with pytest.raises(kind, match=why):
        at.convert(file, to="plain", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == [file]


def test_names() -> None:
    with pytest.raises(Mismatch, match="both lora_unet_a_b_c"):
        flattened({"one": ("unet", "a.b_c"), "two": ("unet", "a_b.c")})
    pairs = {"a": ("text_encoder", "text_model.encoder.layers.10.mlp.fc1"),
             "b": ("text_encoder_2", "text_model.encoder.layers.0.self_attn.out_proj")}  # fmt: skip
    flat = flattened(pairs)
    assert flat["a"] == "lora_te1_text_model_encoder_layers_10_mlp_fc1"
    assert unflattened(flat.values()) == {flat[k]: ".".join(pairs[k]) for k in pairs}


def test_a_component_that_names_do_not_tell(tmp_path: Path) -> None:
    file = kohya(tmp_path / "in.safetensors")
    at.convert(file, to="peft", out=tmp_path / "peft")
    held = load_file(tmp_path / "peft" / WEIGHTS)
    save_file({n.replace("down_blocks.0", "own"): t for n, t in held.items()},
              tmp_path / "peft" / WEIGHTS)  # fmt: skip
    with pytest.raises(Unsupported, match="component=NAME"):
        at.convert(tmp_path / "peft", to="kohya", out=tmp_path / "out")
    at.convert(
        tmp_path / "peft", to="kohya", out=tmp_path / "out", options={"component": "transformer"}
    )
