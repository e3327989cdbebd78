"""Weights of bitsandbytes whose parts are missing, belong to nothing or disagree, one by one."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptertools.errors import Unreadable, Unsupported
from adaptertools.packing import CODES
from adaptertools.quant import fp4, int8, nf4
from adaptertools.tensorfile import TensorSpec, read_header
from tests.tiny_llama import raw_safetensors

Stored = dict[str, tuple[str, list[int], bytes]]

W, STATE = "a.weight", "a.weight.quant_state.bitsandbytes__nf4"
SHAPE = (4, 128)  # eight blocks


def four_bit(double: bool = False) -> Stored:
    """One whole weight, and a norm beside it."""
    codec = nf4.writer(double_quant=double, block_size=64)
    tile = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    scales = codec.fit(tile)
    raw = dict(codec.side(scales, "BF16", SHAPE))
    raw[CODES] = codec.pack(codec.nearest(tile, scales)).tobytes()
    made = {p.name: (p.dtype, list(p.shape), raw[p.role]) for p in codec.parts(W, SHAPE, "BF16")}
    return made | {"norm.weight": ("BF16", [2], bytes(4))}


def eight_bit() -> Stored:
    return {
        W: ("I8", [4, 8], bytes(32)),
        "a.SCB": ("F32", [4], bytes(16)),
        "a.weight_format": ("U8", [], bytes(1)),
        "norm.weight": ("BF16", [2], bytes(4)),
    }


def specs(folder: Path, stored: Stored) -> Mapping[str, TensorSpec]:
    raw_safetensors(folder / "model.safetensors", stored, {"format": "pt"})
    return read_header(folder / "model.safetensors").tensors


def put(name: str, dtype: str, *shape: int) -> Callable[[Stored], object]:
    """Store zeros under this name."""
    size = {"U8": 1, "I8": 1, "BF16": 2, "F16": 2, "F32": 4, "I32": 4, "F64": 8}[dtype]
    return lambda stored: stored.update(
        {name: (dtype, [*shape], bytes(int(np.prod(shape)) * size))}
    )


def drop(*names: str) -> Callable[[Stored], object]:
    return lambda stored: [stored.pop(name) for name in names]


def text(raw: bytes) -> Callable[[Stored], object]:
    return lambda stored: stored.update({STATE: ("U8", [len(raw)], raw)})


def say(**changes: Any) -> Callable[[Stored], object]:
    """Change keys of the quant_state; None takes one away."""

    def change(stored: Stored) -> None:
        said = json.loads(stored[STATE][2]) | changes
        kept = {key: value for key, value in said.items() if value is not None}
        text(json.dumps(kept).encode())(stored)

    return change


def table(kind: str) -> Callable[[Stored], object]:
    values = [0.0] * 16 if kind == "zeros" else [float(v) for v in nf4.writer(
        double_quant=False, block_size=64).table.values]  # fmt: skip
    values[3] += 3e-8
    return lambda s: s.update({f"{W}.quant_map": ("F32", [16], struct.pack("<16f", *values))})


PLAIN: dict[str, tuple[Callable[[Stored], object], str]] = {
    "no weight": (drop(W), r"a\.weight is missing"),
    "no absmax": (drop(f"{W}.absmax"), r"a\.weight\.absmax is missing.*4-bit weight a\.weight"),
    "no quant_map": (drop(f"{W}.quant_map"), r"quant_map is missing"),
    "no state": (drop(STATE), r"a\.weight holds bytes \(U8 \[256, 1\]\), and no quant_state"),
    "no state, floats": (
        lambda stored: (drop(STATE)(stored), put(W, "F32", 64, 1)(stored)),
        r"absmax belongs to a 4-bit weight, and a\.weight\.quant_state\.bitsandbytes__… is missing",
    ),
    "absmax alone": (put("b.weight.absmax", "F32", 8), r"b\.weight\.absmax belongs"),
    "quant_map alone": (put("b.weight.quant_map", "F32", 16), r"b\.weight\.quant_map belongs"),
    "nested alone": (put("b.weight.nested_absmax", "F32", 1), r"nested_absmax belongs"),
    "bytes alone": (put("b.weight", "U8", 256, 1), r"b\.weight holds bytes \(U8 \[256, 1\]\)"),
    "fp4 alone": (put("b.weight.quant_state.bitsandbytes__fp4", "U8", 9), r"b\.weight is missing"),
    "two states": (put(f"{W}.quant_state.bitsandbytes__fp4", "U8", 9), "as nf4 and as fp4"),
    "unknown kind": (put(f"{W}.quant_state.bitsandbytes__int4", "U8", 9), "unknown kind"),
    "unknown state": (put(f"{W}.quant_state.nf4", "U8", 9), "unknown kind"),
    "absmax short": (put(f"{W}.absmax", "F32", 7), r"F32 \[7\], and F32 \[8\] for \[4, 128\].* 64"),
    "absmax F16": (put(f"{W}.absmax", "F16", 8), r"F16 \[8\], and F32 \[8\]"),
    "absmax 2-D": (put(f"{W}.absmax", "F32", 2, 4), r"F32 \[2, 4\], and F32 \[8\]"),
    "absmax U8": (put(f"{W}.absmax", "U8", 8), r"U8 \[8\], and F32 \[8\]"),
    "repacked": (put(f"{W}.absmax", "BF16", 2, 4), "on a CPU before it was saved.*original model"),
    "map short": (put(f"{W}.quant_map", "F32", 15), r"F32 \[15\], and F32 \[16\]"),
    "map zeros": (table("zeros"), "is not the table of nf4"),
    "map off by a bit": (table("nf4"), "is not the table of nf4"),
    "codes short": (put(W, "U8", 255, 1), r"U8 \[255, 1\], and a column of 256 bytes"),
    "codes 2-D": (put(W, "U8", 4, 64), r"a column of 256 bytes for \[4, 128\]"),
    "codes lying": (put(W, "U8", 1, 256), "a column of 256 bytes"),
    "codes BF16 long": (put(W, "BF16", 256, 1), "a column of 256 bytes"),
    "codes I32": (put(W, "I32", 64, 1), "one of U8, I8, F16, BF16, F32, F64"),
    "nested beside plain": (put(f"{W}.nested_absmax", "F32", 1), "of double quantisation"),
    "state F32": (put(STATE, "F32", 9), "text of a small JSON object"),
    "state 2-D": (put(STATE, "U8", 9, 1), "text of a small JSON object"),
    "state huge": (put(STATE, "U8", 1 << 17), "text of a small JSON object"),
    "not JSON": (text(b"{"), r"quant_state of a\.weight is not JSON"),
    "not UTF-8": (text(b'"\xff"'), "is not JSON"),
    "too deep": (text(b"[" * 60000), "is not JSON"),
    "not an object": (text(b"[1]"), "is not a JSON object"),
    "empty": (text(b""), "is not JSON"),
    "other type": (say(quant_type="fp4"), "quant_type is fp4, and nf4"),
    "block of 48": (say(blocksize=48), "blocksize is 48"),
    "block of 16": (say(blocksize=16), "blocksize is 16"),
    "block of 8192": (say(blocksize=8192), "blocksize is 8192"),
    "block True": (say(blocksize=True), "blocksize is True"),
    "block a float": (say(blocksize=64.0), r"blocksize is 64\.0"),
    "other block": (say(blocksize=128), r"F32 \[8\], and F32 \[4\].*blocks of 128"),
    "dtype unknown": (say(dtype="float64"), "dtype is float64"),
    "dtype a list": (say(dtype=["bfloat16"]), "dtype is"),
    "shape negative": (say(shape=[-4, -128]), "shape is"),
    "shape zero": (say(shape=[0, 128]), "shape is"),
    "shape of floats": (say(shape=[4.0, 128]), "shape is"),
    "shape a number": (say(shape=512), "shape is 512"),
    "other shape": (say(shape=[4, 256]), "a column of 512 bytes"),
    "no shape": (say(shape=None), "key shape is missing"),
    "no blocksize": (say(blocksize=None), "key blocksize is missing"),
    "a key more": (say(extra=1), "key extra is not known"),
    "nested in part": (say(nested_dtype="float32"), "key nested_blocksize is missing"),
}
DOUBLE: dict[str, tuple[Callable[[Stored], object], str]] = {
    "no nested_absmax": (drop(f"{W}.nested_absmax"), "nested_absmax is missing"),
    "no nested_quant_map": (drop(f"{W}.nested_quant_map"), "nested_quant_map is missing"),
    "nested long": (put(f"{W}.nested_absmax", "F32", 2), r"F32 \[2\], and F32 \[1\]"),
    "nested BF16": (put(f"{W}.nested_absmax", "BF16", 1), r"BF16 \[1\], and F32 \[1\]"),
    "nested map": (put(f"{W}.nested_quant_map", "F32", 16), r"F32 \[16\], and F32 \[256\]"),
    "absmax F32": (put(f"{W}.absmax", "F32", 8), r"F32 \[8\], and U8 \[8\]"),
    "absmax long": (put(f"{W}.absmax", "U8", 9), r"U8 \[9\], and U8 \[8\]"),
    "repacked": (put(f"{W}.absmax", "BF16", 2, 4), "on a CPU before it was saved"),
    "offset NaN": (say(nested_offset=float("nan")), "nested_offset is nan"),
    "offset text": (say(nested_offset="0.1"), r"nested_offset is 0\.1"),
    "offset True": (say(nested_offset=True), "nested_offset is True"),
    "offset beyond floats": (say(nested_offset=10**400), "nested_offset is 1000"),
    "dtype": (say(nested_dtype="int8"), "nested_dtype is int8"),
    "no offset": (say(nested_offset=None), "key nested_offset is missing"),
}
EIGHT: dict[str, tuple[Callable[[Stored], object], str]] = {
    "no weight": (drop(W), r"a\.weight is missing, which a\.SCB"),
    "no SCB": (drop("a.SCB"), r"a\.SCB is missing, which a\.weight"),
    "weight alone": (drop("a.SCB", "a.weight_format"), r"a\.SCB is missing, which a\.weight"),
    "format alone": (put("b.weight_format", "U8"), r"b\.SCB is missing, which b\.weight_format"),
    "SCB short": (put("a.SCB", "F32", 3), r"F32 \[3\], and F32 \[4\]"),
    "SCB F16": (put("a.SCB", "F16", 4), r"F16 \[4\], and F32 \[4\]"),
    "SCB a column": (put("a.SCB", "F32", 4, 1), r"F32 \[4, 1\], and F32 \[4\]"),
    "weight U8": (put(W, "U8", 4, 8), r"U8 \[4, 8\], and an I8 matrix"),
    "weight BF16": (put(W, "BF16", 4, 8), r"BF16 \[4, 8\], and an I8 matrix"),
    "weight 3-D": (put(W, "I8", 4, 2, 4), "an I8 matrix"),
    "format a list": (put("a.weight_format", "U8", 1), "one number of U8"),
    "format F32": (put("a.weight_format", "F32"), "one number of U8"),
}


@pytest.mark.parametrize("fault", PLAIN)
def test_four_bits(fault: str, tmp_path: Path) -> None:
    change, match = PLAIN[fault]
    refuse(four_bit(), change, match, tmp_path)


@pytest.mark.parametrize("fault", DOUBLE)
def test_double_quantisation(fault: str, tmp_path: Path) -> None:
    change, match = DOUBLE[fault]
    refuse(four_bit(double=True), change, match, tmp_path)


def refuse(stored: Stored, change: Callable[[Stored], object], match: str, folder: Path) -> None:
    assert len(nf4.packed({}, specs(folder, stored))) == 1
    change(stored)
    tensors = specs(folder, stored)
    with pytest.raises(Unreadable, match=match):
        nf4.packed({}, tensors) | fp4.packed({}, tensors)


@pytest.mark.parametrize("fault", EIGHT)
def test_eight_bits(fault: str, tmp_path: Path) -> None:
    change, match = EIGHT[fault]
    stored = eight_bit()
    assert len(int8.packed({}, specs(tmp_path, stored))) == 1
    change(stored)
    with pytest.raises(Unreadable, match=match):
        int8.packed({}, specs(tmp_path, stored))


@pytest.mark.parametrize(("number", "name"), [(1, r"1 \(col32\)"), (3, "col_ampere"), (9, "is 9,")])
def test_other_orders_of_int8_are_not_handled(number: int, name: str, tmp_path: Path) -> None:
    stored = eight_bit() | {"a.weight_format": ("U8", [], bytes([number]))}
    with pytest.raises(Unsupported, match=name):
        int8.packed({}, specs(tmp_path, stored))


def test_what_is_understood_and_not_handled(tmp_path: Path) -> None:
    for double, change, match in (
        (False, say(shape=[2, 2, 128]), r"shape \[2, 2, 128\], and only matrices"),
        (False, say(shape=[512]), r"shape \[512\], and only matrices"),
        (True, say(nested_blocksize=128), "nested_blocksize is 128"),
    ):
        stored = four_bit(double)
        change(stored)
        with pytest.raises(Unsupported, match=match):
            nf4.packed({}, specs(tmp_path, stored))
