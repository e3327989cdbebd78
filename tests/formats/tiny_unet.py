"""diffusers as the reader of what we write: a tiny U-Net, and what it says with a LoRA."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from tests.cases_recipe import quiet

TARGETS = ["to_q", "to_v", "to_out.0", "conv1"]


def unet() -> Any:
    """Make the U-Net; skips where diffusers is not installed."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch.manual_seed(0)
    with quiet():
        return diffusers.UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            cross_attention_dim=8, attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ).eval()  # fmt: skip


def said(model: Any) -> torch.Tensor:
    """Give what a U-Net says of one noise."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    words = torch.randn(1, 3, 8, generator=generator)
    with torch.no_grad():
        return model(noise, 3, encoder_hidden_states=words).sample


def adapter(folder: Path, **lora: Any) -> torch.Tensor:
    """Save a random adapter of it with PEFT, and give what the U-Net says with it."""
    with quiet():
        model = get_peft_model(unet(), LoraConfig(**{"r": 4, "target_modules": TARGETS, **lora}))
        generator = torch.Generator().manual_seed(2)
        for name, parameter in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
            elif "magnitude" in name:
                noise = torch.rand(parameter.shape, generator=generator)
                parameter.data = parameter.data * (0.5 + noise)
        model.save_pretrained(folder)
        return said(model.eval())


def with_peft(folder: Path) -> torch.Tensor:
    """Load an adapter with PEFT, and give what the U-Net says with it."""
    with quiet():
        return said(PeftModel.from_pretrained(unet(), str(folder)).eval())
