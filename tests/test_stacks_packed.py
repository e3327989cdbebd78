"""Packed experts, (experts, rows, columns): the update is in each, and in no other."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptertools import probe_packed
from adaptertools.jobs import Edit
from adaptertools.packed_tiles import foresee
from adaptertools.packing import Repack
from adaptertools.tensorfile import read_header
from adaptertools.update import Update
from adaptertools.update.experts import Experts
from adaptertools.update.within import Within
from tests.kit_packed import Held4, codes_of, experts, fp8, lora, normal, raw, run, small_tiles
from tests.kit_packed import _hold as hold
from tests.update.weights import Held, updated

ROWS, COLUMNS = 64, 96
FLOAT8 = torch.float8_e4m3fn


def mxfp4(folder: Path) -> Held4:
    return experts(folder, (2 * ROWS, COLUMNS))


def float8(folder: Path, block: tuple[int, int] = (16, 32)) -> Held4:
    """Three experts in float8, a grid of scales for each."""
    grid = (3, -(-ROWS // block[0]), COLUMNS // block[1])
    scale = torch.rand(grid, generator=torch.Generator().manual_seed(1)) * 0.01 + 1e-3
    codes = normal((3, ROWS, COLUMNS), size=60.0).clamp(-448, 448).to(FLOAT8)
    spread = scale.repeat_interleave(block[0], 1).repeat_interleave(block[1], 2)
    name = "model.layers.0.mlp.experts.down_proj"
    config = {"quant_method": "fp8", "weight_block_size": [*block]}
    tensors = {name: codes, f"{name}_scale_inv": scale}
    return hold(folder, tensors, fp8, config, codes.float() * spread, name)


MAKERS: dict[str, Callable[[Path], Held4]] = {"mxfp4": mxfp4, "fp8": float8}
every_kind = pytest.mark.parametrize("kind", MAKERS)


def fused(weight: Held4, share: float = 0.05, turned: bool = False) -> Experts:
    """An update of so much of the weight's norm."""
    count, rank = len(weight.values), 2
    out, in_ = (COLUMNS, ROWS) if turned else (ROWS, COLUMNS)
    up, down = normal((out, rank * count), 5, 1.0), normal((count * rank, in_), 6, 1.0)
    update = Experts(Held(up), Held(down), count, rank, 1.0, rank_major=True, turned=turned)
    size = torch.linalg.norm(change(weight, [update]))
    return replace(update, scale=float(share * torch.linalg.norm(weight.values) / size))


def each(weight: Held4, share: float = 0.05) -> list[Update]:
    """Two halves of every expert but the first, as adapters of single experts have them."""
    half, size = ROWS // 2, share * float(torch.linalg.norm(weight.values[0]))
    starts = [e * ROWS + h * half for e in range(1, len(weight.values)) for h in (0, 1)]
    return [
        Within(lora((half, COLUMNS), size, seed=s), (s, s + half), (0, COLUMNS)) for s in starts
    ]


def change(weight: Held4, updates: Sequence[Update]) -> torch.Tensor:
    zero = torch.zeros(weight.values.numel() // COLUMNS, COLUMNS, dtype=torch.float64)
    return updated(zero, updates).reshape(weight.values.shape)


def plan(weight: Held4, updates: Sequence[Update], rounding: str = "adapter", **other: Any) -> Edit:
    source = weight.packed.logical()
    matrix = source._replace(shape=(weight.values.numel() // COLUMNS, COLUMNS))
    kept = Repack(codec=weight.packed.codec, kept=True, rounding=rounding)
    fields = {"dtype": source.dtype, "repack": kept} | other
    return Edit(
        name=weight.name, source=matrix, updates=tuple(updates), packed=weight.packed,
        stored=source.shape, **fields,
    )  # fmt: skip


def worth(weight: Held4, folder: Path, made: bytes) -> torch.Tensor:
    """Decode other codes in the place of the weight's by this package, in float64."""
    parts = {
        role: spec
        if role != "codes"
        else read_header(folder / "out.safetensors").tensors[spec.name]
        for role, spec in weight.packed.parts.items()
    }
    assert raw(parts["codes"]) == made
    from adaptertools.unpacked import decoded

    rows = [
        torch.from_numpy(rows).double() for _, rows in decoded(replace(weight.packed, parts=parts))
    ]
    return torch.cat(rows).reshape(weight.values.shape)


def share(moved: torch.Tensor, meant: torch.Tensor) -> float:
    return float((moved * meant).sum() / (meant**2).sum())


@every_kind
def test_nothing_changes_where_nothing_is_added(kind: str, tmp_path: Path) -> None:
    weight = MAKERS[kind](tmp_path)
    for rounding in ("adapter", "stochastic", "nearest"):
        nothing = replace(fused(weight), scale=0.0)
        made, _ = run(tmp_path / rounding, plan(weight, [nothing], rounding))
        assert made[weight.name] == codes_of(weight)


@pytest.mark.parametrize("tile", [700, 1 << 20])
@pytest.mark.parametrize("rounding", ["adapter", "stochastic"])
@pytest.mark.parametrize("updates", ["fused", "turned", "each"])
@every_kind
def test_every_expert_gets_its_update_once(
    kind: str, updates: str, rounding: str, tile: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    small_tiles(monkeypatch, tile)
    weight = MAKERS[kind](tmp_path)
    own = each(weight) if updates == "each" else [fused(weight, turned=updates == "turned")]
    planned, meant = plan(weight, own, rounding), change(weight, own)
    made, said = run(tmp_path / "out", planned)
    moved = worth(weight, tmp_path / "out", made[weight.name]) - weight.values
    for e in range(len(meant)):
        if meant[e].any():
            assert share(moved[e], meant[e]) == pytest.approx(1, abs=0.35)
        else:
            assert not moved[e].any()
    assert share(moved, meant) == pytest.approx(1, abs=0.25)
    assert said is not None
    assert said.retention is not None
    assert said.retention.kept == pytest.approx(share(moved, meant), abs=1e-3)
    written = (
        read_header(weight.file).tensors | read_header(tmp_path / "out/out.safetensors").tensors
    )
    assert probe_packed.applied(planned, written) == ""


@every_kind
def test_rounding_keeps_each_experts_own_directions_clean(kind: str, tmp_path: Path) -> None:
    weight = MAKERS[kind](tmp_path)
    update = fused(weight)
    meant, bands = change(weight, [update]), {}
    own = torch.linalg.svd(meant, full_matrices=False)[0][..., : update.rank]
    for rounding in ("adapter", "stochastic"):
        made, _ = run(tmp_path / rounding, plan(weight, [update], rounding))
        error = worth(weight, tmp_path / rounding, made[weight.name]) - weight.values - meant
        bands[rounding] = torch.linalg.norm(own.mT @ error, dim=(1, 2))
    assert (bands["adapter"] < 0.8 * bands["stochastic"]).all()


@every_kind
def test_the_same_bits_however_it_is_cut(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, found = MAKERS[kind](tmp_path), set()
    for size in (500, 3000, 1 << 20):
        small_tiles(monkeypatch, size)
        found.add(run(tmp_path / str(size), plan(weight, [fused(weight)]))[0][weight.name])
    assert len(found) == 1


def test_no_two_experts_share_their_dice(tmp_path: Path) -> None:
    weight, update = float8(tmp_path), lora((ROWS, COLUMNS), 1.0)
    same = weight.tensors[weight.name][:1].expand(3, -1, -1).contiguous()
    scale = torch.full((3, 4, 3), 0.01)
    name, config = weight.name, {"quant_method": "fp8", "weight_block_size": [16, 32]}
    tensors = {name: same, f"{name}_scale_inv": scale}
    weight = hold(tmp_path / "same", tensors, fp8, config, same.float() * 0.01, name)
    own = [Within(update, (e * ROWS, (e + 1) * ROWS), (0, COLUMNS)) for e in range(3)]
    made, _ = run(tmp_path / "out", plan(weight, own, "stochastic"))
    size = ROWS * COLUMNS
    experts_ = [made[name][e * size : (e + 1) * size] for e in range(3)]
    assert len({*experts_}) == 3


@every_kind
def test_it_is_foreseen(kind: str, tmp_path: Path) -> None:
    weight = MAKERS[kind](tmp_path)
    for own in ([fused(weight)], each(weight)):
        planned = plan(weight, own)
        said, real = foresee(planned), run(tmp_path / "out", planned)[1]
        assert said is not None
        assert said.retention is not None
        assert said.tensor == weight.name
        assert said.retention.kept == pytest.approx(real.retention.kept, abs=0.25)


def test_decoded_to_16_bits_it_is_base_plus_update(tmp_path: Path) -> None:
    weight = float8(tmp_path)
    planned = plan(weight, [fused(weight)], repack=None)
    run(tmp_path / "out", planned)
    from safetensors.torch import load_file

    found = load_file(tmp_path / "out" / "out.safetensors")[weight.name]
    exact = weight.values + change(weight, [fused(weight)])
    assert found.dtype == torch.bfloat16
    assert ((found.double() - exact).abs() <= exact.abs() * 2**-8 * 1.001 + 1e-6).all()
    written = read_header(tmp_path / "out" / "out.safetensors").tensors
    assert probe_packed.applied(planned, written) == ""


@every_kind
def test_verify_names_the_expert_that_lost_its_update(kind: str, tmp_path: Path) -> None:
    weight = MAKERS[kind](tmp_path)
    planned = plan(weight, [fused(weight, 0.3)])
    made, _ = run(tmp_path / "out", planned)
    file = tmp_path / "out" / "out.safetensors"
    spec = read_header(file).tensors[weight.name]
    size, old = spec.nbytes // len(weight.values), codes_of(weight)
    data = bytearray(file.read_bytes())
    data[spec.start + size : spec.start + 2 * size] = old[size : 2 * size]
    file.write_bytes(data)
    written = read_header(weight.file).tensors | read_header(file).tensors
    assert f"{weight.name}[1]" in probe_packed.applied(planned, written)
    assert made[weight.name] != old
