"""Where changed weights go, held against what bitsandbytes makes of the same sum."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from adaptertools import tensorfile
from adaptertools.errors import Unsupported
from adaptertools.jobs import Edit
from adaptertools.packing import Repack
from adaptertools.update.lowrank import LowRank
from tests.kit import rounded_once, ulp_distance
from tests.kit_packed import (
    WEIGHTS,
    WRITERS,
    F,
    W,
    decode4,
    delta,
    edit,
    lora,
    normal,
    run,
    small_tiles,
)
from tests.update.weights import Held

torch.set_num_threads(1)

SHAPE = (64, 96)


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
    codec = WRITERS[kind](double_quant=double, block_size=64)
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
        codec=WRITERS[kind](double_quant=False, block_size=64), kept=False, rounding=rounding
    )
    made, said = run(tmp_path, edit(weight, update, repack=repack))
    tensors = {n: torch.frombuffer(bytearray(b), dtype=torch.uint8) for n, b in made.items()}
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
    kept = float(
        ((found.double() - weight.values) * delta(update)).sum() / (delta(update) ** 2).sum()
    )
    assert said.retention.kept == pytest.approx(kept, abs=5e-3)


@pytest.mark.parametrize("rounding", ["stochastic", "adapter", "nearest"])
@pytest.mark.parametrize("kind", WRITERS)
def test_tiles_are_not_seen(
    kind: str, rounding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, update = WEIGHTS["fp8_block"](tmp_path, SHAPE), lora(SHAPE, 1.0)
    codec = WRITERS[kind](double_quant=False, block_size=64)
    planned = edit(weight, update, repack=Repack(codec=codec, kept=False, rounding=rounding))
    whole, _ = run(tmp_path, planned)
    for size in (1, 700):
        small_tiles(monkeypatch, size)
        made, _ = run(tmp_path, planned)
        for name, part in made.items():
            a, b = (np.frombuffer(x, np.uint8) for x in (part, whole[name]))
            assert (a != b).mean() < 2e-3  # products of other shapes differ in the last bit


def test_the_sum_is_rounded_once_before_it_is_packed(tmp_path: Path) -> None:
    """To odd on the way from float64 through float32 to bfloat16."""
    weight = torch.zeros(64, 64)
    weight[:, 0] = 1 + 2**-8  # halfway between two of bfloat16
    up, down = torch.zeros(64, 1), torch.zeros(1, 64)
    up[:], down[0, 0] = 2**-20, 2**-20
    update = LowRank(Held(up), Held(down), 1.0)
    codec = WRITERS["nf4"](double_quant=False, block_size=64)
    repack = Repack(codec=codec, kept=False, rounding="nearest")
    made, _ = run(tmp_path, plain_edit(tmp_path, weight, update, repack=repack, dtype="BF16"))
    assert set(np.frombuffer(made[f"{W}.absmax"], np.float32).tolist()) == {1 + 2**-7}


def plain_edit(folder: Path, tensor: torch.Tensor, update: Any, **fields: Any) -> Any:
    """An edit of a weight that is not packed."""
    folder.mkdir(exist_ok=True)
    save_file({W: tensor}, folder / "plain.safetensors")
    source = tensorfile.read_header(folder / "plain.safetensors").tensors[W]
    updates = (update,) if update is not None else ()
    return Edit(source=source, updates=updates, **{"name": W, "dtype": source.dtype} | fields)


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
        codec=WRITERS[kind](double_quant=double, block_size=64), kept=False,
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
            if update is None or name.rpartition(".")[2] != "weight":
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
        codec = WRITERS[repack](double_quant=False, block_size=64)
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
