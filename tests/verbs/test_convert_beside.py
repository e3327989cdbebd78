"""A LoRA worked out of a base: packed bases, weights that lie in pieces, and other formats."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import adaptertools as at
from adaptertools.layouts.pieces import Box, Piece
from adaptertools.verbs._convert_seats import _fill
from tests import kit
from tests.as_lora import CASES
from tests.kit_quant import decoded_fp8, save_fp8

torch.set_num_threads(1)

BLOCK = (16, 16)


@pytest.mark.parametrize("name", ["HRA linear", "OFT linear", "IA3 linear"])
def test_a_packed_base_counts_as_what_it_decodes_to(name: str, tmp_path: Path) -> None:
    CASES[name].build(tmp_path, torch.float32)
    packed = save_fp8(tmp_path / "base", tmp_path / "fp8", BLOCK)
    shutil.copytree(tmp_path / "base", tmp_path / "plain")
    held = {n: t.float().contiguous() for n, t in decoded_fp8(packed, BLOCK).items()}
    save_file(held, tmp_path / "plain" / "model.safetensors", {"format": "pt"})
    merged = []
    for base in (packed, tmp_path / "plain"):
        out = tmp_path / f"of-{base.name}"
        at.convert(
            tmp_path / "adapter", to="plain", out=out, base=base, allow_lossy=True, rank=8
        )  # fmt: skip
        at.merge(out, base=tmp_path / "base", out=tmp_path / f"with-{base.name}")
        merged.append(kit.read(tmp_path / f"with-{base.name}"))
    before, (one, two) = kit.read(tmp_path / "base"), merged
    changed = [n for n, t in before.items() if not torch.equal(t, one[n])]
    assert len(changed) == 6
    for tensor in changed:
        change = (one[tensor] - before[tensor]).norm()
        assert (one[tensor] - two[tensor]).norm() < 1e-5 * change, tensor


def test_a_weight_that_lies_in_pieces() -> None:
    weight = np.arange(24.0).reshape(6, 4)
    apart, experts = np.zeros((9, 4)), np.zeros((3, 4, 3))
    apart[2:5] = weight[[2, 0, 1]]
    experts[1, :, :3] = weight[3:].T
    pieces = (
        (apart, Piece(tensor="a", held=Box((2, 5), (0, 4)), model=Box((0, 3), (0, 4)),
                      order=(1, 2, 0))),
        (experts, Piece(tensor="b", held=Box((0, 4), (0, 3), 1), model=Box((3, 6), (0, 4)),
                        turned=True)),
    )  # fmt: skip
    made = np.zeros_like(weight)
    for stored, piece in pieces:
        _fill(made, stored, piece)
    assert (made == weight).all()


@pytest.mark.parametrize("to", ["gguf", "mlx"])
@pytest.mark.parametrize("name", ["HRA linear", "OFT linear"])
def test_other_formats(name: str, to: str, tmp_path: Path) -> None:
    CASES[name].build(tmp_path, torch.float32)
    base, merged = tmp_path / "base", []
    for form in ("plain", to):
        at.convert(
            tmp_path / "adapter", to=form, out=tmp_path / form, base=base, allow_lossy=True, rank=4
        )  # fmt: skip
        at.merge(tmp_path / form, base=base, out=tmp_path / f"by-{form}")
        merged.append(kit.read(tmp_path / f"by-{form}"))
    before, (one, two) = kit.read(base), merged
    assert any(not torch.equal(t, one[n]) for n, t in before.items())
    for tensor, value in one.items():
        assert torch.allclose(value, two[tensor], rtol=0, atol=1e-6), tensor
