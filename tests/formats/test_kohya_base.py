"""A base's modules say what kohya's flat names mean, where the words that are known do not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools.errors import AdapterToolsError, Mismatch, NotFound, Unsupported
from adaptertools.formats.peft import WEIGHTS

UNET = ["blocks.0.cross_attn.my_proj", "blocks.0.cross_attn.img.q_a", "conv_in"]
TEXT = ["text_model.encoder.layers.0.self_attn.q_proj"]


def base(folder: Path, **parts: list[str]) -> Path:
    """Save a pipeline, or with `alone` one model."""
    for part, modules in parts.items():
        where = folder if part == "alone" else folder / part
        where.mkdir(parents=True)
        tensors = {f"{module}.weight": torch.zeros(4, 4) for module in modules}
        name = "model" if part == "alone" else "diffusion_pytorch_model"
        save_file(tensors | {"norm": torch.ones(4)}, where / f"{name}.safetensors")
    return folder


def flat(path: Path, *names: str) -> Path:
    tensors = {}
    for at_, name in enumerate(names):
        tensors[f"{name}.lora_down.weight"] = torch.full((2, 4), at_ + 1.0)
        tensors[f"{name}.lora_up.weight"] = torch.full((4, 2), at_ + 1.0)
    save_file(tensors, path)
    return path


def test_names_that_only_the_base_tells(tmp_path: Path) -> None:
    file = flat(tmp_path / "x.safetensors", "lora_unet_blocks_0_cross_attn_img_q_a",
                "lora_unet_blocks_0_cross_attn_my_proj")  # fmt: skip
    with pytest.raises(Unsupported, match="Pass --base"):
        at.open(file)
    for name, where in {
        "pipeline": base(tmp_path / "pipeline", unet=UNET, text_encoder=TEXT),
        "model": base(tmp_path / "model", alone=UNET),
    }.items():
        at.convert(file, to="peft", base=where, out=tmp_path / f"out-{name}")
        assert at.open(tmp_path / f"out-{name}").targets == ("my_proj", "q_a")
        held = load_file(tmp_path / f"out-{name}" / WEIGHTS)
        assert held[f"base_model.model.{UNET[1]}.lora_A.weight"].unique() == 1
    (where / "config.json").write_text("{}")
    assert at.inspect(file, base=where).targets == tuple(sorted(UNET[:2]))


def test_parts_of_a_pipeline_keep_their_names(tmp_path: Path) -> None:
    where = base(tmp_path / "base", unet=UNET, text_encoder=TEXT, text_encoder_2=TEXT)
    names = {"lora_unet_conv_in": "unet.conv_in"} | {
        f"lora_te{n}_{TEXT[0].replace('.', '_')}": f"text_encoder{'_2' * (n == 2)}.{TEXT[0]}"
        for n in (1, 2)
    }
    file = flat(tmp_path / "x.safetensors", *names)
    at.convert(file, to="peft", base=where, out=tmp_path / "out")
    assert {e.target for e in at.open(tmp_path / "out").entries} == set(names.values())


@pytest.mark.parametrize(
    ("modules", "kind", "said"),
    [
        (["blocks.0.attn_q", "blocks.0.attn.q"], Unsupported, "and both are in the base"),
        (["blocks.0.attn_k"], Mismatch, r"lora_unet_blocks_0_attn_q: .* has no module of that"),
        (None, NotFound, "holds no safetensors"),
    ],
)
def test_refused(
    modules: list[str] | None, kind: type[AdapterToolsError], said: str, tmp_path: Path
) -> None:
    file = flat(tmp_path / "x.safetensors", "lora_unet_blocks_0_attn_q")
    where = tmp_path / "base"
    where.mkdir()
    if modules:
        base(where, unet=modules)
    with pytest.raises(kind, match=said):
        at.convert(file, to="peft", base=where, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
