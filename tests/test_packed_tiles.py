"""Packed weights through the tiles: nothing for nothing, and the update in what comes out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptertools import packed_tiles
from adaptertools.errors import Unsupported
from adaptertools.packed_tiles import foresee
from adaptertools.packing import Repack
from adaptertools.update import Update
from adaptertools.update.dora import Dora
from adaptertools.update.lowrank import LowRank
from tests.kit_packed import (
    WEIGHTS,
    WRITERS,
    Held4,
    W,
    codes_of,
    delta,
    edit,
    four,
    lora,
    normal,
    run,
    small_tiles,
    worth,
)
from tests.update.weights import Held

torch.set_num_threads(1)

ROUNDINGS = ("adapter", "stochastic", "nearest")
every_rounding = pytest.mark.parametrize("rounding", ROUNDINGS)
every_weight = pytest.mark.parametrize("kind", WEIGHTS)
SHAPE = (64, 96)


def matrix(weight: Held4) -> tuple[int, int]:
    """The shape that updates see."""
    logical = weight.packed.logical()
    return logical.rows, logical.columns


def flat(weight: Held4, values: torch.Tensor) -> torch.Tensor:
    return values.reshape(matrix(weight))


def zeros(shape: tuple[int, int]) -> list[Update]:
    """Updates that are nothing: a zero B, a zero A, a zero scale, one that takes back another."""
    rows, columns = shape
    up, down = normal((rows, 4), 1, 1.0), normal((4, columns), 2, 1.0)
    return [
        LowRank(Held(up * 0), Held(down), 2.0),
        LowRank(Held(up), Held(down * -0.0), 2.0),
        LowRank(Held(up), Held(down), 0.0),
    ]


# Nothing for nothing


@every_rounding
@every_weight
def test_a_zero_update_leaves_every_byte(kind: str, rounding: str, tmp_path: Path) -> None:
    weight = WEIGHTS[kind](tmp_path, SHAPE)
    for i, update in enumerate(zeros(matrix(weight))):
        made, said = run(tmp_path / str(i), edit(weight, update, rounding))
        assert made == {weight.name: codes_of(weight)}
        assert said is not None
        assert (said.update_norm, said.retention, said.swallowed) == (0, None, 0)
    made, _ = run(tmp_path / "all", edit(weight, zeros(matrix(weight)), rounding))
    assert made == {weight.name: codes_of(weight)}


@every_rounding
@pytest.mark.parametrize("kind", ["nf4", "fp4", "nf4_double"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 33), (129, 31), (10, 512)], ids=str)
def test_a_zero_update_of_odd_shapes(
    shape: tuple[int, int], kind: str, rounding: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for size in (1, 1 << 20):
        small_tiles(monkeypatch, size)
        weight = WEIGHTS[kind](tmp_path / str(size), shape)
        made, _ = run(tmp_path / str(size), edit(weight, zeros(shape)[0], rounding))
        assert made == {W: codes_of(weight)}


def strange(shape: tuple[int, int]) -> torch.Tensor:
    """Rows of zeros, of denormals, of one value, of huge ones; both zeros of fp4."""
    weight = normal(shape)
    for row, size in enumerate((0.0, 1e-39, 1e-42, 1e-38, 1e30, -0.0)):
        weight[row] *= size
    weight[6] = 0.01
    weight[7] = 1e-4 * weight[7] + 1e-6
    return weight


@every_rounding
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_zero_update_of_strange_weights(
    kind: str, double: bool, rounding: str, tmp_path: Path
) -> None:
    weight = four(kind, double, tmp_path, (64, 64), strange((64, 64)))
    made, _ = run(tmp_path, edit(weight, zeros((64, 64))[0], rounding))
    assert made == {W: codes_of(weight)}


@every_rounding
def test_a_zero_update_of_every_code(rounding: str, tmp_path: Path) -> None:
    """All 256 bytes, also those that nobody would write: −128 in int8, −0 in fp4 and float8."""
    every = torch.arange(256, dtype=torch.uint8).repeat(16)
    for name, dtype in (("nf4", None), ("fp4", None), ("int8", torch.int8), ("fp8_block", None)):
        weight = WEIGHTS[name](tmp_path / name, (64, 128) if dtype is None else (64, 64))
        tensors = weight.tensors
        size = tensors[W].numel()
        codes = every.repeat(size // len(every) + 1)[:size].clone()
        if name == "fp8_block":
            codes[(codes & 0x7F) == 0x7F] = 0x80  # no NaN
        tensors[W] = codes.view(tensors[W].dtype).reshape(tensors[W].shape)
        from safetensors.torch import save_file

        save_file(tensors, weight.file)
        made, _ = run(tmp_path / name, edit(weight, zeros(matrix(weight))[0], rounding))
        assert made == {W: codes.numpy().tobytes()}


def test_nan_codes_stay_where_they_are_allowed(tmp_path: Path) -> None:
    weight = WEIGHTS["fp8_block"](tmp_path, SHAPE)
    tensors = weight.tensors
    tensors[W].view(torch.uint8)[5, :4] = torch.tensor([0x7F, 0xFF, 0x7F, 0x01], dtype=torch.uint8)
    from safetensors.torch import save_file

    save_file(tensors, weight.file)
    update = lora(SHAPE, 1.0)
    with pytest.raises(Unsupported, match="not finite"):
        run(tmp_path, edit(weight, update))
    for rounding in ROUNDINGS:
        made, _ = run(tmp_path, edit(weight, update, rounding), nonfinite=True)
        codes = np.frombuffer(made[W], np.uint8).reshape(SHAPE)
        assert codes[5, :3].tolist() == [0x7F, 0xFF, 0x7F]
        assert (codes & 0x7F == 0x7F).sum() == 3


# What is meant


@every_rounding
@every_weight
def test_an_update_is_kept_as_the_rounding_says(kind: str, rounding: str, tmp_path: Path) -> None:
    weight = WEIGHTS[kind](tmp_path, (512, 1024) if kind != "mxfp4" else (64, 1024))
    shape = matrix(weight)
    update = lora(shape, 0.01 * float(torch.linalg.norm(weight.values)))
    made, said = run(tmp_path, edit(weight, update, rounding))
    moved, meant = flat(weight, worth(weight, made[weight.name]) - weight.values), delta(update)
    known = ~moved.isnan()
    kept = float((moved * meant)[known].sum() / (meant**2)[known].sum())
    if rounding == "adapter" and kind != "mxfp4":
        assert 0.95 < kept < 1.05
    elif rounding != "nearest":
        assert 0.85 < kept < 1.15
    elif "4" in kind.split("_")[0]:
        assert kept < 0.15
    assert said is not None
    assert said.retention is not None
    if known.all():  # what the merge says of itself is what others measure
        error = moved - meant
        assert said.retention.kept == pytest.approx(kept, abs=2e-3)
        noise = float(torch.linalg.norm(error) / torch.linalg.norm(weight.values))
        assert said.retention.noise == pytest.approx(noise, rel=1e-3)
        changed = np.frombuffer(made[weight.name], np.uint8) != np.frombuffer(
            codes_of(weight), np.uint8
        )
        assert bool(changed.any()) == (said.retention.moved > 0)
        assert said.max_error == pytest.approx(float(error.abs().max()), rel=1e-3)
        assert said.mean_error == pytest.approx(float(error.abs().mean()), rel=1e-3)
        v = np.linalg.qr(update.down.read("float64").T)[0]
        band = float(torch.linalg.norm(error @ torch.from_numpy(v)) / torch.linalg.norm(meant))
        assert said.retention.in_band == pytest.approx(band, rel=1e-3)


@every_weight
def test_nearest_is_nearest(kind: str, tmp_path: Path) -> None:
    weight = WEIGHTS[kind](tmp_path, SHAPE)
    update = lora(matrix(weight), 0.3 * float(torch.linalg.norm(weight.values)))
    made, said = run(tmp_path, edit(weight, update, "nearest"))
    found = flat(weight, worth(weight, made[weight.name]))
    target = flat(weight, weight.values) + delta(update)
    other = [edit(weight, update, how, seed) for how in ROUNDINGS for seed in range(3)]
    off = (found - target).abs()
    for planned in other:
        rival = flat(weight, worth(weight, run(tmp_path, planned)[0][weight.name]))
        bad = off > (rival - target).abs() * (1 + 1e-5) + 1e-9
        assert not bool((bad & ~off.isnan()).any())
    assert said is not None
    assert said.retention is not None
    assert said.retention.nearest == pytest.approx(said.retention.kept, abs=1e-6)


def test_the_error_stays_out_of_what_the_adapter_writes(tmp_path: Path) -> None:
    """And is less: directions of outputs are where training saw gradients."""
    weight = WEIGHTS["nf4"](tmp_path, (512, 256))
    update = lora((512, 256), 0.01 * float(torch.linalg.norm(weight.values)))
    u = torch.from_numpy(np.linalg.qr(update.up.read("float64"))[0])
    band, noise = {}, {}
    for rounding in ("adapter", "stochastic"):
        made, _ = run(tmp_path, edit(weight, update, rounding))
        error = worth(weight, made[W]) - weight.values - delta(update)
        band[rounding] = float(torch.linalg.norm(u.T @ error))
        noise[rounding] = float(torch.linalg.norm(error))
    assert band["adapter"] < 0.6 * band["stochastic"]
    assert noise["adapter"] < 0.95 * noise["stochastic"]


@pytest.mark.parametrize("kind", ["nf4", "nf4_double", "fp4", "int8", "fp8_block", "mxfp4"])
def test_seeds(kind: str, tmp_path: Path) -> None:
    weight = WEIGHTS[kind](tmp_path, SHAPE)
    update = lora(matrix(weight), 0.02 * float(torch.linalg.norm(weight.values)))
    for rounding in ("adapter", "stochastic"):
        made = [run(tmp_path, edit(weight, update, rounding, seed))[0] for seed in (0, 1, 0)]
        assert made[0] == made[2]
        assert made[0] != made[1]
    made = [run(tmp_path, edit(weight, update, "nearest", seed))[0] for seed in (0, 1)]
    assert made[0] == made[1]


def test_another_name_is_another_seed(tmp_path: Path) -> None:
    weight = WEIGHTS["nf4"](tmp_path, SHAPE)
    update = lora(SHAPE, 1.0)
    one, other = (run(tmp_path, edit(weight, update, name=n))[0][n] for n in (W, f"x.{W}"))
    assert one != other


@every_rounding
@every_weight
def test_tiles_are_not_seen(
    kind: str, rounding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = WEIGHTS[kind](tmp_path, SHAPE)
    update = lora(matrix(weight), 0.05 * float(torch.linalg.norm(weight.values)))
    whole, said = run(tmp_path, edit(weight, update, rounding))
    for size in (1, 500, 3000):
        small_tiles(monkeypatch, size)
        made, now = run(tmp_path, edit(weight, update, rounding))
        # A product of other shape may round its last bit otherwise, and a die lie on that edge.
        a, b = (np.frombuffer(x[weight.name], np.uint8) for x in (whole, made))
        assert (a != b).mean() < 1e-3
        assert now is not None
        assert said is not None
        if rounding != "adapter":
            assert now.retention is not None
            assert said.retention is not None
            assert now.retention.kept == pytest.approx(said.retention.kept, abs=1e-3)


def test_a_weight_of_several_tiles(tmp_path: Path) -> None:
    """At the real size of tiles: the last one is shorter, and what is said is of all of them."""
    shape = (2200, 1024)
    weight = WEIGHTS["nf4_double"](tmp_path, shape)
    made, _ = run(tmp_path, edit(weight, zeros(shape)[0]), workers=2)
    assert made == {W: codes_of(weight)}
    update = lora(shape, 0.01 * float(torch.linalg.norm(weight.values)))
    made, said = run(tmp_path, edit(weight, update), workers=2)
    moved, meant = worth(weight, made[W]) - weight.values, delta(update)
    assert said is not None
    assert said.retention is not None
    assert said.measured >= 1 << 20
    kept = float((moved * meant).sum() / (meant**2).sum())
    assert kept == pytest.approx(1, abs=0.03)
    assert said.retention.kept == pytest.approx(kept, abs=0.01)
    last = slice(2100, None)  # rows of the last tile
    kept = float((moved * meant)[last].sum() / (meant**2)[last].sum())
    assert kept == pytest.approx(1, abs=0.1)


# Looking ahead


@every_rounding
@pytest.mark.parametrize("kind", ["nf4", "fp4_double", "int8", "fp8_block"])
def test_what_is_foreseen_comes_to_pass(kind: str, rounding: str, tmp_path: Path) -> None:
    weight = WEIGHTS[kind](tmp_path, (512, 1024))
    update = lora((512, 1024), 0.01 * float(torch.linalg.norm(weight.values)))
    planned = edit(weight, update, rounding)
    before = sorted(p.name for p in tmp_path.iterdir())
    ahead = foresee(planned)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    _, said = run(tmp_path, planned)
    assert said is not None
    assert said.retention is not None
    assert ahead.retention is not None
    assert ahead.retention.kept == pytest.approx(said.retention.kept, abs=0.05)
    assert ahead.retention.noise == pytest.approx(said.retention.noise, rel=0.1)
    assert ahead.retention.nearest == pytest.approx(said.retention.nearest, abs=0.05)
    assert ahead.update_norm == pytest.approx(said.update_norm, rel=0.1)
    part = foresee(planned, tile=1 << 14)
    assert part.measured < 512 * 1024 == said.measured
    assert part.retention is not None
    assert part.retention.kept == pytest.approx(said.retention.kept, abs=0.15)


def test_dora_and_a_product_after_it(tmp_path: Path) -> None:
    weight = WEIGHTS["nf4"](tmp_path, (256, 512))
    low, more = (lora((256, 512), s, seed=i) for i, s in enumerate((0.5, 0.4)))
    norm = torch.linalg.norm(weight.values, dim=1, keepdim=True) * 1.01
    updates = [Dora(low, Held(norm.T), by_column=False), more]
    new = weight.values + delta(low)
    target = norm * new / torch.linalg.norm(new, dim=1, keepdim=True) + delta(more)
    made, said = run(tmp_path, edit(weight, updates))
    moved, meant = worth(weight, made[W]) - weight.values, target - weight.values
    assert float((moved * meant).sum() / (meant**2).sum()) == pytest.approx(1, abs=0.05)
    assert said is not None
    assert said.update_norm == pytest.approx(
        float(torch.linalg.norm(meant) / torch.linalg.norm(weight.values)), rel=1e-3
    )


def test_progress_counts_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    small_tiles(monkeypatch, 700)
    weight, update = WEIGHTS["nf4"](tmp_path, SHAPE), lora(SHAPE, 0.3)
    fresh: dict[str, Any] = {"kept": False, "rounding": "nearest"}
    for repack in (
        Repack(codec=weight.packed.codec, kept=True, rounding="adapter"),
        Repack(codec=WRITERS["nf4"](double_quant=True, block_size=128), **fresh),
        Repack(codec=WRITERS["int8"](double_quant=False, block_size=64), **fresh),
        None,
    ):
        counts: list[int] = []
        planned = edit(weight, update, repack=repack)
        places, at = {}, 0
        for part in planned.outputs:
            places[part.name] = at
            at += 1 << 16
        source = os.open(weight.file, os.O_RDONLY)
        out = os.open(tmp_path / "raw", os.O_RDWR | os.O_CREAT)
        files = {str(weight.file): source}
        packed_tiles.run_packed(planned, files, out, places, False, counts.append)
        os.close(source)
        os.close(out)
        assert sum(counts) == planned.nbytes
