"""Tensors of other formats made PEFT's, and safetensors files written as they come.

A reader whose tensors lie otherwise than PEFT's (transposed, fused, permuted, packed) writes them
once into a temporary file, which lives as long as the process: everything else then reads them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkstemp
from typing import TYPE_CHECKING, Any

from adaptertools.adapter import Adapter
from adaptertools.errors import Unreadable, shown
from adaptertools.formats import peft
from adaptertools.tensorfile import BITS, dtype_of, encode_header, raw_bytes, read_header

if TYPE_CHECKING:
    from adaptertools.update import Array

PT: Mapping[str, str] = {"format": "pt"}  # exactly what PEFT and diffusers write


def spooled(
    config: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    tensors: Iterable[tuple[str, Array]], where: Path, ref: str, name: str,
) -> Adapter:  # fmt: skip
    """Make an adapter of PEFT's config and PEFT's names; raises what PEFT's reader raises.

    A config that depends on the tensors is asked for once they are written.
    """
    handle, path = mkstemp(".safetensors", f"{name}-", _room())
    os.close(handle)
    save(Path(path), tensors)
    folder = where if where.is_dir() else where.parent
    told = config() if callable(config) else config
    made = peft.build(told, read_header(Path(path)).tensors, folder, ref)
    return replace(made, format=name)


def save(
    path: Path, tensors: Iterable[tuple[str, Array]], metadata: Mapping[str, str] = PT
) -> tuple[int, int]:
    """Write arrays, one in memory at a time; give how many, and the bytes of their data.

    Raises Unreadable for a name that comes twice.
    """
    import numpy as np

    lines: dict[str, tuple[str, tuple[int, ...]]] = {}
    body = path.with_name(f"{path.name}.data")
    with body.open("wb") as data:
        for name, values in tensors:
            if name in lines:
                raise Unreadable(f"{shown(name)} would be written twice: two tensors become one.")
            lines[name] = (code_of(values.dtype), values.shape)
            data.write(raw_bytes(np.ascontiguousarray(values)) if values.size else b"")
        total = data.tell()
    header = encode_header([(name, *line) for name, line in lines.items()], metadata)
    with path.open("wb") as made, body.open("rb") as data:
        made.write(header)
        shutil.copyfileobj(data, made, 1 << 23)
        made.flush()
        os.fsync(made.fileno())
    body.unlink()
    return len(lines), total


@cache
def _codes() -> Mapping[Any, str]:
    known = ("F64", "F32", "F16", "BF16", "U8", "I8", "I32", "I64")
    return {dtype_of(code): code for code in known if code in BITS}


def code_of(dtype: Any) -> str:
    """Give the header's code of numpy's dtype."""
    return _codes()[dtype]


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="adaptertools-")


def _room() -> str:
    return _folder().name
