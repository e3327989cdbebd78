"""adapter_model.bin: what torch.save wrote, read without unpickling, and written as safetensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from adaptertools import picklefile
from adaptertools.errors import Unreadable, Unsafe, Unsupported, first, shown
from adaptertools.picklefile import Listing, Strided
from adaptertools.tensorfile import BITS, TensorSpec, encode_header

# The order in which the safetensors library writes dtypes, so that files come out equal.
_ORDER = ("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "I8", "U8",
          "BOOL")  # fmt: skip
_CHUNK = 1 << 23


def listing(path: Path, inside: str = "") -> Listing:
    """List a pickle of tensors, or of one map of them under the name `inside`.

    Raises Unsafe where it refers to anything but tensors, Unreadable where it is damaged or holds
    other things than a state dict.
    """
    found = picklefile.read(path, inside=inside)
    if strange := picklefile.foreign(found.globals):
        raise Unsafe(
            f"{shown(path)} is a pickle that would run code when it is loaded: it names "
            f"{first(strange)}. Do not load it; ask its author for safetensors."
        )
    if found.refused:
        raise Unreadable(
            f"{shown(path)} is not read: {found.refused}. Fetch it again, or get safetensors of it."
        )
    if found.others:
        raise Unreadable(
            f"{shown(path)} is no state dict: {first(found.others)} is no tensor. "
            "Save the adapter's tensors alone."
        )
    return found


def tensors(path: Path, inside: str = "") -> Mapping[str, TensorSpec]:
    """Give the tensors of a pickle, to be read where they lie; `inside` as for `listing`.

    Raises what `listing` raises, and Unsupported where some lie in no one piece.
    """
    found = listing(path, inside)
    if found.strided:
        raise Unsupported(
            f"{shown(path)}: {first(found.strided)} are views that do not lie in one piece. "
            "Run `adaptertools convert` on it first, and use what that writes."
        )
    return found.tensors


def save(held: Listing, target: Path, progress: Callable[[int], None]) -> None:
    """Write the tensors as a safetensors file, in the order and with the metadata of PEFT's own.

    Tensors that share bytes are written out each for itself. Raises Unreadable for a name that a
    header cannot hold, and where the file ends early.
    """
    if "__metadata__" in held.tensors:
        raise Unreadable(f"{shown(held.file)}: a tensor is called __metadata__. Rename it.")
    ordered = sorted(held.tensors.values(), key=lambda s: (_ORDER.index(s.dtype), s.name))
    header = encode_header([(s.name, s.dtype, s.shape) for s in ordered], {"format": "pt"})
    with Path(held.file).open("rb") as source, target.open("xb") as made:
        made.write(header)
        for spec in ordered:
            view = held.strided.get(spec.name)
            parts = _gathered(spec, view) if view else _copied(source, spec)
            for part in parts:
                made.write(part)
                progress(len(part))
        made.flush()
        os.fsync(made.fileno())


def _copied(source: BinaryIO, spec: TensorSpec) -> Iterator[bytes]:
    source.seek(spec.start)
    left = spec.nbytes
    while left:
        part = source.read(min(left, _CHUNK))
        if not part:
            raise Unreadable(f"{shown(spec.file)} ended while it was being read.")
        left -= len(part)
        yield part


def _gathered(spec: TensorSpec, view: Strided) -> Iterator[bytes]:
    """Collect the elements of a view, some rows at a time; the reader has checked its bounds."""
    import numpy as np

    width = BITS[spec.dtype] // 8
    steps = [stride * width for stride in view.strides]
    reach = sum((n - 1) * step for n, step in zip(spec.shape, steps, strict=True)) + width
    raw = np.memmap(spec.file, np.uint8, "r", view.start, (reach,))
    whole = np.ndarray(spec.shape, f"V{width}", raw, 0, steps)
    rows = max(1, _CHUNK * spec.rows // spec.nbytes)
    for at in range(0, spec.rows, rows):
        yield whole[at : at + rows].tobytes()
