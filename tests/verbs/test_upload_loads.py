"""What upload publishes and huggingface_hub downloads, PEFT loads: same logits."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, OPTConfig, OPTForCausalLM

import adaptertools as at
from tests.hub_server import Hub

torch.set_num_threads(1)
# PEFT reads an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

IDS = torch.arange(12).reshape(2, 6)
FETCH = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1]))"


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


def opt(folder: Path) -> Path:
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=4,
        max_position_embeddings=32, word_embed_proj_dim=32,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_peft_loads_what_was_published(safe: bool, tmp_path: Path) -> None:
    base = opt(tmp_path / "base")
    trained = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM",
                   init_lora_weights=False),
    )  # fmt: skip
    trained.save_pretrained(tmp_path / "mine", safe_serialization=safe)
    assert str(base) in (tmp_path / "mine" / "adapter_config.json").read_text()
    with Hub() as hub:
        more = ["--base", "org/tiny-opt"]
        done = hub.run(tmp_path, "upload", "user/repo", str(tmp_path / "mine"), *more)
        assert done.returncode == 0, done.stderr
        held = hub.repo("user/repo").all()
        assert not [name for name, data in held.items() if str(tmp_path).encode() in data]
        folder = hub.call(tmp_path, FETCH, "user/repo").stdout.strip()
    assert at.open(folder).base == "org/tiny-opt"
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    assert torch.equal(logits(loaded), logits(trained))
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert not torch.allclose(logits(loaded), logits(plain))
