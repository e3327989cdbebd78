"""PEFT and transformers load what was downloaded, and compute what they did before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import OPTConfig, OPTForCausalLM

from tests.hub_server import Hub

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def base() -> OPTForCausalLM:
    torch.manual_seed(0)
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=64, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=32, word_embed_proj_dim=16,
        )
    ).eval()  # fmt: skip


@pytest.mark.parametrize("place", ["cache", "folder", "subfolder"])
def test_same_logits(place: str, tmp_path: Path) -> None:
    ids = torch.arange(12).reshape(1, 12)
    made = get_peft_model(
        base(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    ).eval()
    with torch.no_grad():
        wanted = made(ids).logits
        plain = base()(ids).logits
    assert not torch.allclose(wanted, plain)
    made.save_pretrained(tmp_path / "made")
    files = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    inner = "checkpoint-6/" if place == "subfolder" else ""
    with Hub() as hub:
        hub.add("user/repo", {inner + name: data for name, data in files.items()})
        where = () if place == "cache" else ("--local-dir", str(tmp_path / "copy"))
        done = hub.run(tmp_path, "download", f"user/repo/{inner}".rstrip("/"), "-q", *where)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert (folder == tmp_path / "copy") is (place != "cache")
    with torch.no_grad():
        found = PeftModel.from_pretrained(base(), folder)(ids).logits
    assert torch.equal(found, wanted)
