"""Single packed weights that other libraries make, the edits that change them, and what comes out.

weight = WEIGHTS["nf4"](folder, (64, 96))            # a file, and how it is read
out = run(folder, edit(weight, update, "adapter"))   # every output tensor: its bytes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptertools import packed_tiles, runner, tensorfile, unpacked
from adaptertools.jobs import Edit, ShardJob
from adaptertools.packing import CODES, Packed, Repack, Writer
from adaptertools.quant import fp4, fp8, int8, mxfp4, nf4
from adaptertools.rounding import Rounding
from adaptertools.update import Update
from adaptertools.update.lowrank import LowRank
from tests.update.weights import Held

F = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is the oracle")

W = "model.layers.0.q_proj.weight"
X = "model.layers.0.mlp.experts.down_proj"
Tensors = dict[str, torch.Tensor]
MODULES = {"nf4": nf4, "fp4": fp4, "int8": int8}


@dataclass(frozen=True)
class Held4:
    """A packed weight in a file: how this package reads it, and what it is worth by others."""

    packed: Packed
    file: Path
    values: torch.Tensor  # float64, of the logical shape
    name: str = W

    @property
    def tensors(self) -> Tensors:
        """Every stored tensor."""
        return load_file(self.file)


def normal(shape: tuple[int, ...], seed: int = 0, size: float = 0.05) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size


def _hold(
    folder: Path, tensors: Tensors, module: Any, config: Any, values: Any, name: str
) -> Held4:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "packed.safetensors"
    save_file({n: t.contiguous() for n, t in tensors.items()}, file)
    (packed,) = module.packed(config, tensorfile.read_header(file).tensors).values()
    return Held4(packed, file, values.double(), name)


def four(
    kind: str, double: bool, folder: Path, shape: tuple[int, ...], weight: Any = None,
    block: int = 64, dtype: torch.dtype = torch.bfloat16,
) -> Held4:  # fmt: skip
    """A 4-bit weight as bitsandbytes stores it."""
    weight = (normal(shape) if weight is None else weight).to(dtype)
    codes, state = F.quantize_4bit(
        weight, blocksize=block, compress_statistics=double, quant_type=kind
    )
    tensors = {f"{W}.{n}": t for n, t in state.as_dict(packed=True).items()} | {W: codes}
    values = decode4(tensors)
    return _hold(folder, tensors, MODULES[kind], {"quant_method": "bitsandbytes"}, values, W)


def decode4(tensors: Tensors) -> torch.Tensor:
    """Decode by bitsandbytes, to float32; as one row, for which every CPU has the plain kernel."""
    parts = {n.removeprefix(f"{W}."): t for n, t in tensors.items() if n != W}
    state = F.QuantState.from_dict(parts, torch.device("cpu"))
    shape, state.dtype = state.shape, torch.float32
    state.shape = torch.Size((1, shape.numel()))
    found: torch.Tensor = F.dequantize_4bit(tensors[W].reshape(-1, 1), state)
    return found.reshape(shape)


def eight(folder: Path, shape: tuple[int, ...], weight: Any = None) -> Held4:
    """An int8 weight as bitsandbytes stores it."""
    codes, scb, _ = F.int8_vectorwise_quant((normal(shape) if weight is None else weight).half())
    module = W.removesuffix(".weight")
    zero = torch.tensor(0, dtype=torch.uint8)
    tensors = {W: codes, f"{module}.SCB": scb, f"{module}.weight_format": zero}
    values = F.int8_vectorwise_dequant(codes, scb)
    return _hold(folder, tensors, int8, {"quant_method": "bitsandbytes"}, values, W)


def floats(
    block: tuple[int, int] | None, scale: torch.dtype, kind: torch.dtype, folder: Path,
    shape: tuple[int, ...],
) -> Held4:  # fmt: skip
    """A float8 weight: scales by block, or by row where `block` is (1, 0), by tensor where None."""
    weight = normal(shape)
    rows, columns = block or shape
    columns = columns or shape[1]
    high, wide = -(-shape[0] // rows), -(-shape[1] // columns)
    padded = torch.zeros(high * rows, wide * columns)
    padded[: shape[0], : shape[1]] = weight
    tops = padded.reshape(high, rows, wide, columns).abs().amax((1, 3))
    sizes = tops / torch.finfo(kind).max
    if scale == torch.float8_e8m0fnu:
        sizes = torch.exp2(torch.log2(sizes).ceil())
    stored = sizes.to(scale)
    spread = stored.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    spread = spread[: shape[0], : shape[1]]
    codes = (weight / spread).clamp(-torch.finfo(kind).max, torch.finfo(kind).max).to(kind)
    codes.view(torch.uint8)[0, :3] = torch.tensor([0x80, 0x00, 0x81], dtype=torch.uint8)  # −0 …
    config: dict[str, Any] = {"quant_method": "fp8"}
    if block and block[1]:
        config["weight_block_size"] = list(block)
    elif block is None:
        stored = stored.reshape(1)
    if block is None or not block[1]:
        config["weight_block_size"] = None
    tensors = {W: codes, f"{W}_scale_inv": stored}
    values = codes.float() * spread
    return _hold(folder, tensors, fp8, config, values, W)


def experts(folder: Path, shape: tuple[int, ...]) -> Held4:
    """MXFP4 as gpt-oss stores it; two experts of half the rows each."""
    generator = torch.Generator().manual_seed(0)
    lead = (2, shape[0] // 2, shape[1] // 32)
    blocks = torch.randint(0, 256, (*lead, 16), generator=generator).to(torch.uint8)
    scales = torch.randint(118, 120, lead, generator=generator).to(torch.uint8)
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    table = torch.cat([table, -table])
    pairs = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2)
    values = table[pairs.int()] * torch.exp2(scales.float() - 127)[..., None]
    tensors = {f"{X}_blocks": blocks, f"{X}_scales": scales}
    values = values.reshape(2, shape[0] // 2, shape[1])
    return _hold(folder, tensors, mxfp4, {"quant_method": "mxfp4"}, values, f"{X}_blocks")


_E4, _E8 = torch.float8_e4m3fn, torch.float8_e8m0fnu
WEIGHTS: Mapping[str, Callable[..., Held4]] = {
    "nf4": partial(four, "nf4", False),
    "nf4_double": partial(four, "nf4", True),
    "fp4": partial(four, "fp4", False),
    "fp4_double": partial(four, "fp4", True),
    "int8": eight,
    "fp8_block": partial(floats, (16, 32), torch.float32, _E4),
    "fp8_block_bf16": partial(floats, (16, 32), torch.bfloat16, _E4),
    "fp8_powers": partial(floats, (16, 32), _E8, _E4),
    "fp8_channel": partial(floats, (1, 0), torch.bfloat16, _E4),
    "fp8_tensor": partial(floats, None, torch.float32, _E4),
    "fp8_e5m2": partial(floats, (16, 32), torch.float32, torch.float8_e5m2),
    "mxfp4": experts,
}


WRITERS: Mapping[str, Callable[..., Writer]] = {
    "nf4": nf4.writer, "fp4": fp4.writer, "int8": int8.writer
}  # fmt: skip


def small_tiles(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Cut weights into tiles of about so many elements."""
    monkeypatch.setattr(packed_tiles._base, "__defaults__", (size,))
    monkeypatch.setattr(unpacked.height, "__defaults__", (size,))


def lora(shape: Sequence[int], size: float, rank: int = 4, seed: int = 7) -> LowRank:
    """A random product of this norm."""
    rows, columns = shape
    up = normal((rows, rank), seed, 1.0).double()
    down = normal((rank, columns), seed + 1, 1.0).double()
    up *= size / torch.linalg.norm(up @ down)
    return LowRank(Held(up.float()), Held(down.float()), 1.0)


def delta(update: LowRank) -> torch.Tensor:
    """A product in float64."""
    up, down = (torch.from_numpy(f.read("float64")) for f in (update.up, update.down))
    return update.scale * (up @ down)


def edit(
    weight: Held4, updates: Sequence[Update] | Update, rounding: str = "adapter", seed: int = 0,
    **other: Any,
) -> Edit:  # fmt: skip
    """Plan a change; on the kept scales where `other` does not say otherwise."""
    updates = [*updates] if isinstance(updates, Sequence) else [updates]
    kept = Repack(codec=weight.packed.codec, kept=True, rounding=rounding, seed=seed)
    logical = weight.packed.logical()
    fields = {"name": weight.name, "dtype": logical.dtype, "repack": kept} | other
    return Edit(source=logical, updates=tuple(updates), packed=weight.packed, **fields)


def run(folder: Path, planned: Edit, **options: Any) -> tuple[dict[str, bytes], Rounding | None]:
    """Write one edit as a shard; gives the bytes of every output, and how exact it came out."""
    folder.mkdir(parents=True, exist_ok=True)
    outputs = [part[1:] for part in planned.outputs]
    header = tensorfile.encode_header(outputs, {})
    job = ShardJob(file="out.safetensors", header=header, edits=(planned,))
    (folder / job.file).unlink(missing_ok=True)
    said = runner.run_job(job, folder, **options)
    return {n: raw(s) for n, s in tensorfile.read_header(folder / job.file).tensors.items()}, (
        said[0] if said else None
    )


def raw(spec: tensorfile.TensorSpec) -> bytes:
    """The bytes of a stored tensor."""
    return Path(spec.file).read_bytes()[spec.start : spec.stop]


def codes_of(weight: Held4) -> bytes:
    """The bytes of a weight's codes."""
    return raw(weight.packed.parts[CODES])


def worth(weight: Held4, made: bytes) -> torch.Tensor:
    """What other codes in the place of a weight's are worth, by the libraries that made it."""
    tensors = weight.tensors
    old = tensors[weight.name]
    new = torch.from_numpy(np.frombuffer(made, np.uint8).copy()).view(old.dtype).reshape(old.shape)
    if weight.packed.codec.kind in ("nf4", "fp4"):
        return decode4(tensors | {weight.name: new}).double()
    if weight.packed.codec.kind == "int8":
        scb = tensors[f"{W.removesuffix('.weight')}.SCB"]
        found: torch.Tensor = F.int8_vectorwise_dequant(new, scb).double()
        return found
    if weight.packed.codec.kind == "mxfp4":
        table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
        table = torch.cat([table, -table]).double()
        pairs = torch.stack([new & 15, new >> 4], -1).flatten(-2)
        sizes = torch.exp2(tensors[f"{X}_scales"].double() - 127)[..., None]
        return (table[pairs.int()] * sizes).reshape(weight.values.shape)
    values, before = new.double(), old.double()
    # Where the old code is not zero its worth tells the scale; those rows are all that is compared.
    size = torch.where(before != 0, weight.values / before, torch.nan)
    return values * size
