"""Packed weights through the tiles: nothing for nothing, and what is meant by other libraries' eyes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptertools import packed_tiles, tiles, unpacked
from adaptertools.errors import Unsupported
from adaptertools.packed_tiles import foresee
from adaptertools.packing import CODES, Repack
from adaptertools.quant import fp4, int8, nf4
from adaptertools.update import Update
from adaptertools.update.dora import Dora
from adaptertools.update.lowrank import LowRank
from tests.kit import rounded_once, ulp_distance
from tests.kit_packed import (
    WEIGHTS,
    F,
    Held4,
    W,
    codes_of,
    decode4,
    delta,
    edit,
    eight,
    floats,
    four,
    lora,
    normal,
    run,
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


def small_tiles(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Cut weights into tiles of about so many elements."""
    monkeypatch.setattr(packed_tiles._base, "__defaults__", (size,))
    monkeypatch.setattr(unpacked.height, "__defaults__", (size,))


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
    weight = WEIGHTS[kind](tmp_path, (512, 1024))
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
        changed = np.frombuffer(made[weight.name], np.uint8) != np.frombuffer(codes_of(weight), np.uint8)
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


def test_the_error_stays_out_of_what_the_adapter_reads(tmp_path: Path) -> None:
    weight = WEIGHTS["nf4"](tmp_path, (256, 2048))
    update = lora((256, 2048), 0.01 * float(torch.linalg.norm(weight.values)))
    v = torch.from_numpy(np.linalg.qr(update.down.read("float64").T)[0])
    band = {}
    for rounding in ("adapter", "stochastic"):
        made, _ = run(tmp_path, edit(weight, update, rounding))
        error = worth(weight, made[W]) - weight.values - delta(update)
        band[rounding] = float(torch.linalg.norm(error @ v))
    assert band["adapter"] < 0.4 * band["stochastic"]


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


# To other packings, and to none


@pytest.mark.parametrize("kind", [k for k in WEIGHTS if k != "mxfp4"])
def test_to_16_bit_is_rounded_once(kind: str, tmp_path: Path) -> None:
    weight = WEIGHTS[kind](tmp_path, SHAPE)
    update = lora(SHAPE, 0.2 * float(torch.linalg.norm(weight.values)))
    exact = weight.values + delta(update)
    for code, dtype in (("BF16", torch.bfloat16), ("F32", torch.float32), ("F16", torch.float16)):
        made, said = run(tmp_path, edit(weight, update, repack=None, dtype=code))
        found = torch.frombuffer(bytearray(made[W]), dtype=dtype).reshape(SHAPE)
        wanted = rounded_once(exact, dtype)
        # The sum is in float32, so a result near zero has the last bits of its terms.
        near = (found.double() - exact).abs() <= 2**-22 * weight.values.abs().max()
        assert bool(((ulp_distance(found, wanted) <= 1) | near).all())
        assert said is not None
        assert said.retention is not None
        assert said.retention.kept == pytest.approx(1, abs=0.02)
        assert said.retention.nearest is None


def theirs(kind: str, tensor: torch.Tensor, double: bool) -> dict[str, bytes]:
    """What bitsandbytes makes of a weight."""
    if kind == "int8":
        codes, scb, _ = F.int8_vectorwise_quant(tensor.half())
        module = W.removesuffix(".weight")
        return {
            W: codes.numpy().tobytes(), f"{module}.SCB": scb.numpy().tobytes(),
            f"{module}.weight_format": b"\0",
        }  # fmt: skip
    codes, state = F.quantize_4bit(tensor, compress_statistics=double, quant_type=kind)
    parts = {f"{W}.{n}": t.numpy().tobytes() for n, t in state.as_dict(packed=True).items()}
    return {W: codes.numpy().tobytes()} | parts


WRITERS: dict[str, Any] = {"nf4": nf4, "fp4": fp4, "int8": int8}


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("source", ["nf4_double", "fp4", "int8", "fp8_block", "fp8_tensor"])
@pytest.mark.parametrize(
    ("kind", "double"),
    [("nf4", False), ("nf4", True), ("fp4", False), ("fp4", True), ("int8", False)],
)
def test_fresh_and_nearest_is_what_bitsandbytes_makes_of_the_sum(
    kind: str, double: bool, source: str, size: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    small_tiles(monkeypatch, size)
    weight = WEIGHTS[source](tmp_path, SHAPE)
    update = lora(SHAPE, 0.2 * float(torch.linalg.norm(weight.values)))
    codec = WRITERS[kind].writer(double_quant=double, block_size=64)
    repack = Repack(codec=codec, kept=False, rounding="nearest")
    planned = edit(weight, update, repack=repack)
    made, _ = run(tmp_path, planned)
    plain, _ = run(tmp_path, edit(weight, update, repack=None))
    dtype = torch.float16 if planned.dtype == "F16" else torch.bfloat16
    total = torch.frombuffer(bytearray(plain[W]), dtype=dtype).reshape(SHAPE)
    assert {n: b.rstrip(b" ") for n, b in made.items()} == {
        n: b.rstrip(b" ") for n, b in theirs(kind, total, double).items()
    }


@pytest.mark.parametrize("rounding", ["adapter", "stochastic"])
@pytest.mark.parametrize(("kind", "spread"), [("nf4", 0.31), ("fp4", 0.34), ("int8", 0.0080)])
def test_fresh_and_by_chance(kind: str, spread: float, rounding: str, tmp_path: Path) -> None:
    weight = WEIGHTS["fp8_block"](tmp_path, (256, 512))
    update = lora((256, 512), 0.02 * float(torch.linalg.norm(weight.values)))
    repack = Repack(
        codec=WRITERS[kind].writer(double_quant=False, block_size=64), kept=False, rounding=rounding
    )
    made, said = run(tmp_path, edit(weight, update, repack=repack))
    tensors = {
        n: torch.frombuffer(bytearray(b), dtype=torch.uint8) for n, b in made.items()
    }
    if kind == "int8":
        scb = tensors[f"{W.removesuffix('.weight')}.SCB"].view(torch.float32)
        found = F.int8_vectorwise_dequant(tensors[W].view(torch.int8).reshape(256, 512), scb)
    else:
        for name in (f"{W}.absmax", f"{W}.quant_map"):
            tensors[name] = tensors[name].view(torch.float32)
        found = decode4(tensors)
    error = found.double() - weight.values - delta(update)
    assert abs(float(error.mean())) < 6 * float(error.std()) / error.numel() ** 0.5
    top = (weight.values + delta(update)).reshape(-1, 64).abs().amax(1).max()
    # One step, what rounding to bfloat16 first is off by, and what feedback may move.
    bound = (spread + 2**-8) * float(top) * (3 if rounding == "adapter" else 1)
    assert float(error.abs().max()) < bound
    assert said is not None
    assert said.retention is not None
    kept = float(((found.double() - weight.values) * delta(update)).sum() / (delta(update) ** 2).sum())
    assert said.retention.kept == pytest.approx(kept, abs=5e-3)


def plain_edit(folder: Path, tensor: torch.Tensor, update: Any, **fields: Any) -> Any:
    """An edit of a weight that is not packed."""
    from safetensors.torch import save_file

    from adaptertools import tensorfile
    from adaptertools.jobs import Edit

    folder.mkdir(exist_ok=True)
    save_file({W: tensor}, folder / "plain.safetensors")
    source = tensorfile.read_header(folder / "plain.safetensors").tensors[W]
    updates = (update,) if update is not None else ()
    return Edit(name=W, dtype=source.dtype, source=source, updates=updates, **fields)


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("kind", "double"), [("nf4", True), ("fp4", False), ("int8", False)])
def test_from_16_bit_is_what_bitsandbytes_makes(
    kind: str, double: bool, dtype: torch.dtype, turned: bool, size: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    small_tiles(monkeypatch, size)
    weight = normal((96, 60)).to(dtype)
    repack = Repack(
        codec=WRITERS[kind].writer(double_quant=double, block_size=64), kept=False,
        rounding="nearest",
    )  # fmt: skip
    for update in (None, lora((96, 60), 1.0)):
        made, _ = run(tmp_path, plain_edit(tmp_path, weight, update, repack=repack, turned=turned))
        exact = weight.double() + (delta(update) if update else 0)
        total = rounded_once(exact, dtype)
        total = total.T.contiguous() if turned else total
        wanted = theirs(kind, total, double)
        assert made.keys() == wanted.keys()
        for name, part in made.items():
            if update is None or "weight" != name.rpartition(".")[2]:
                continue
            a, b = (np.frombuffer(x, np.uint8) for x in (part, wanted[name]))
            assert (a != b).mean() < 2e-3  # the sum's last bit
        if update is None:
            assert {n: b.rstrip(b" ") for n, b in made.items()} == {
                n: b.rstrip(b" ") for n, b in wanted.items()
            }


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_turned_to_16_bit_is_the_transpose(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_tiles(monkeypatch, size)
    weight, update = WEIGHTS["nf4"](tmp_path, (48, 96)), lora((48, 96), 0.3)
    straight, _ = run(tmp_path, edit(weight, update, repack=None))
    made, _ = run(tmp_path, edit(weight, update, repack=None, turned=True))
    one, two = (
        torch.frombuffer(bytearray(x[W]), dtype=torch.bfloat16).reshape(shape)
        for x, shape in ((straight, (48, 96)), (made, (96, 48)))
    )
    assert torch.equal(one.T, two)


# What does not fit


@pytest.mark.parametrize("repack", [None, "nf4", "int8"])
def test_a_sum_beyond_float16_is_refused(repack: str | None, tmp_path: Path) -> None:
    weight = torch.full((64, 64), 60_000.0).half()
    update = LowRank(Held(torch.full((64, 1), 100.0)), Held(torch.full((1, 64), 100.0)), 1.0)
    how = None
    if repack:
        codec = WRITERS[repack].writer(double_quant=False, block_size=64)
        how = Repack(codec=codec, kept=False, rounding="nearest")
    planned = plain_edit(tmp_path, weight, update, repack=how)
    with pytest.raises(Unsupported):
        run(tmp_path, planned)


def test_what_is_beyond_the_grid_is_counted(tmp_path: Path) -> None:
    weight = WEIGHTS["nf4"](tmp_path, SHAPE)
    top = weight.values.abs().reshape(-1, 64).amax(1, keepdim=True).expand(-1, 64).reshape(SHAPE)
    update = lora(SHAPE, 0.2 * float(torch.linalg.norm(weight.values)))
    _, said = run(tmp_path, edit(weight, update))
    assert said is not None
    assert said.retention is not None
    assert said.retention.clipped == int(((weight.values + delta(update)).abs() > top).sum())


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
    for repack in (
        Repack(codec=weight.packed.codec, kept=True, rounding="adapter"),
        Repack(codec=nf4.writer(double_quant=True, block_size=128), kept=False, rounding="nearest"),
        Repack(codec=int8.writer(double_quant=False, block_size=64), kept=False, rounding="nearest"),
        None,
    ):
        planned, counts = edit(weight, update, repack=repack), []
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
