"""What a merge stored of a packed weight: decoded, and refused where others would misread it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.errors import Unreadable, first
from adaptertools.jobs import Edit
from adaptertools.packing import CODES, Codec, Packed
from adaptertools.probe_rows import rows_of
from adaptertools.tensorfile import FLOATS, TensorSpec
from adaptertools.unpacked import Unpacked

if TYPE_CHECKING:
    from adaptertools.update import Array


def read_back(edit: Edit, written: Mapping[str, TensorSpec]) -> tuple[Array, Array | None]:
    """Read what was stored, decoded to float64, and the scale of every element."""
    import numpy as np

    if edit.repack is None:
        rows = [part for _, part in rows_of(written[edit.name])]
        return np.concatenate(rows), None
    parts = {part.role: written[part.name] for part in edit.outputs}
    if edit.repack.kept and edit.packed is not None:
        parts = {role: written[spec.name] for role, spec in edit.packed.parts.items()}
        parts[CODES] = written[edit.name]
    else:
        _check_constants(edit, edit.repack.codec, parts)
    packed = Packed(codec=edit.repack.codec, parts=parts, dtype=edit.dtype, shape=edit.shape)
    with ExitStack() as stack:
        files = {
            file: stack.enter_context(Path(file).open("rb")).fileno()
            for file in {spec.file for spec in parts.values()}
        }
        weight = Unpacked(packed, files)
        values = np.concatenate([rows for _, rows in weight.tiles()]).astype(np.float64)
        spread = np.broadcast_to(weight.spread(0, weight.shape[0]), weight.shape)
        return values, spread.astype(np.float64).T if edit.turned else spread.astype(np.float64)


def _check_constants(edit: Edit, codec: Codec, parts: Mapping[str, TensorSpec]) -> None:
    """Refuse a written weight whose table, state or format would have it read in another way."""
    import numpy as np

    held = {role: tensorfile.read(spec) for role, spec in parts.items() if role != CODES}
    values = np.array(codec.table.values, np.float32)
    wrong = [
        role
        for role, want in (
            ("quant_map", lambda: values.take(codec.table.ranks[:16])), ("weight_format", lambda: 0)
        )
        if role in held and not np.array_equal(held[role], want())
    ]  # fmt: skip
    if "state" in held:
        said = json.loads(held["state"].tobytes())
        state = {
            "quant_type": codec.kind, "blocksize": getattr(codec, "block_size", 0),
            "shape": list(edit.shape), "dtype": FLOATS[edit.dtype],
        }  # fmt: skip
        if getattr(codec, "double_quant", False):
            state |= {"nested_blocksize": 256, "nested_dtype": "float32"}
        if any(said.get(key) != value for key, value in state.items()):
            wrong.append("quant_state")
    if wrong:
        raise Unreadable(f"Its {first(wrong)} is not what {codec.kind} needs.")
