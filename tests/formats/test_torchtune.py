"""torchtune's own conversion gives what we read, but for DoRA, where PEFT's norms are the judge."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import adaptertools as at
from adaptertools.errors import Mismatch, Unreadable, Unsupported
from adaptertools.formats.peft import WEIGHTS

HEADS, GROUPS, SIZE, RANK = 4, 2, 8, 3
ROWS = {"attn.q_proj": HEADS * SIZE, "attn.k_proj": GROUPS * SIZE, "attn.output_proj": 32,
        "mlp.w1": 48, "mlp.w3": 48}  # fmt: skip


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    """Write what torchtune writes, and the base's config beside it."""
    generator = torch.Generator().manual_seed(0)
    held = {}
    for name, rows in ROWS.items():
        held[f"layers.1.{name}.lora_a.weight"] = torch.randn(RANK, 32, generator=generator)
        held[f"layers.1.{name}.lora_b.weight"] = torch.randn(rows, RANK, generator=generator)
    (folder / "base").mkdir(parents=True)
    torch.save(held, folder / "adapter_model.pt")
    config = {"r": RANK, "lora_alpha": 6, "peft_type": "LORA", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    base = {"num_attention_heads": HEADS, "num_key_value_heads": GROUPS}
    (folder / "base" / "config.json").write_text(json.dumps(base))
    return held


def test_torchtune_says_the_same(tmp_path: Path) -> None:
    theirs = pytest.importorskip(
        "torchtune.models.convert_weights", reason="torchtune is not installed"
    )
    held = adapter(tmp_path / "in")
    at.convert(tmp_path / "in", out=tmp_path / "out", base=tmp_path / "in" / "base")
    expected = theirs.tune_to_peft_adapter_weights(held, HEADS, GROUPS, 32, SIZE)
    found = load_file(tmp_path / "out" / WEIGHTS)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {entry.scale for entry in at.open(tmp_path / "out").entries} == {2.0}


def test_rows_turn_with_the_rotation(tmp_path: Path) -> None:
    """Scores of rotated q and k are equal in both orders: torchtune's pairs and the halves."""
    held = adapter(tmp_path / "in")
    at.convert(tmp_path / "in", out=tmp_path / "out", base=tmp_path / "in" / "base")
    found = load_file(tmp_path / "out" / WEIGHTS)
    start = "base_model.model.model.layers.1.self_attn.q_proj.lora_"
    x = torch.randn(32, generator=torch.Generator().manual_seed(1))
    angles = torch.arange(SIZE // 2) * 0.7 + 0.3
    pairs = held["layers.1.attn.q_proj.lora_b.weight"] @ held["layers.1.attn.q_proj.lora_a.weight"]
    halves = found[f"{start}B.weight"] @ found[f"{start}A.weight"]
    a = torch.view_as_complex((pairs @ x).view(HEADS, SIZE // 2, 2)) * torch.exp(1j * angles)
    first, second = (halves @ x).view(HEADS, 2, SIZE // 2).unbind(1)
    turned = torch.stack([first * angles.cos() - second * angles.sin(),
                          second * angles.cos() + first * angles.sin()], -1)  # fmt: skip
    torch.testing.assert_close(torch.view_as_real(a), turned)


def test_refused(tmp_path: Path) -> None:
    held = adapter(tmp_path / "in")
    with pytest.raises(Unsupported, match=r"number of heads\. Pass the model as --base"):
        at.convert(tmp_path / "in", out=tmp_path / "out")
    (tmp_path / "in" / "base" / "config.json").write_text('{"num_attention_heads": 5}')
    with pytest.raises(Mismatch, match="and the base 5 heads"):
        at.convert(tmp_path / "in", out=tmp_path / "out", base=tmp_path / "in" / "base")
    torch.save({**held, "layers.0.attn.odd.lora_a.weight": torch.ones(2)},
               tmp_path / "in" / "adapter_model.pt")  # fmt: skip
    with pytest.raises(Unsupported, match=r"attn\.odd\.lora_a\.weight are no factors"):
        at.convert(tmp_path / "in", out=tmp_path / "out", base=tmp_path / "in" / "base")
    (tmp_path / "in" / "adapter_config.json").unlink()
    with pytest.raises(Unreadable, match="its scale is not known"):
        at.convert(tmp_path / "in", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
