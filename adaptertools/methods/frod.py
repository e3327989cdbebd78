"""FRoD: W = U · diag(λ₀) · Vᵀ becomes U · (S + diag(λ)) · Vᵀ.  https://doi.org/10.1609/aaai.v40i31.39813

V (in, in) and the places of S's entries are shared by the modules of one category, which is the
last two words of their names; λ (in) and the entries of S are a module's own. U is W · V⁻ᵀ with its
columns, of length λ₀, made unit. After peft/tuners/frod/{model,layer}.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.adapter import Site
from adaptertools.errors import Mismatch, Unreadable, Unsupported, shown
from adaptertools.methods._parts import features, part
from adaptertools.methods._plain import bias_updates as bias_updates
from adaptertools.tensorfile import FLOATS, TensorSpec
from adaptertools.update import Update
from adaptertools.update.reframed import Reframed

if TYPE_CHECKING:
    from adaptertools.update import Array

peft_type = "FROD"

tensors = {
    "frod_lambda_l": "new lengths (in)",
    "frod_lambda_s_values": "entries of S (n)",
    "frod_V.*": "the frame that a category shares (in, in)",
    "frod_s_indices.*": "rows and columns of a category's entries (2, n)",
    "frod_s_size.*": "sides of S",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """V, and what becomes of the coordinates in it."""

    v: TensorSpec
    lengths: TensorSpec
    values: TensorSpec
    indices: TensorSpec

    def vectors(self) -> Array:
        """Give V in float64."""
        return tensorfile.read(self.v).astype("float64")

    def between(self) -> Array:
        """Give S + diag(λ) in float64."""
        import numpy as np

        made = np.diag(tensorfile.read(self.lengths).astype("float64"))
        rows, columns = tensorfile.read(self.indices).astype(np.int64)
        if len(rows) and (
            min(rows.min(), columns.min()) < 0 or max(rows.max(), columns.max()) >= len(made)
        ):
            raise Unreadable(f"{shown(self.indices.name)} points outside of S. It is damaged.")
        np.add.at(made, (rows, columns), tensorfile.read(self.values).astype("float64"))
        return made


def check(config: Mapping[str, Any]) -> None:
    """Refuse an adapter without its frames: they come from all weights of the base at once."""
    if not config.get("save_projection", True):
        raise Unsupported(
            "The config sets save_projection to false, so the frames that FROD works in are not "
            "in the file; they come from a factorisation of all weights of the base together. "
            "Save the adapter again with save_projection=True, from where it was trained."
        )


def updates(site: Site) -> Iterator[Update]:
    """Give the update of the weight."""
    out, inside = features(site)
    category = _category(site.entry.target)
    values = part(site, "frod_lambda_s_values", None)
    frame = Frame(
        _shared(site, f"frod_V.{category}", (inside, inside), tuple(FLOATS)),
        part(site, "frod_lambda_l", inside),
        values,
        _shared(site, f"frod_s_indices.{category}", (2, *values.shape), ("I32", "I64")),
    )
    shape = (inside, out) if site.transposed else (out, inside)
    yield Reframed(frame, shape, site.transposed, site.scale)


def _shared(site: Site, role: str, shape: tuple[int, ...], kinds: tuple[str, ...]) -> TensorSpec:
    """Give a tensor that a category shares."""
    spec = site.shared.get(role)
    if spec is None:
        raise Unreadable(
            f"The adapter lacks base_model.{shown(role)}, which {shown(site.entry.target)} is "
            "worked out in. The file is incomplete; save the adapter again."
        )
    if spec.shape != shape or spec.dtype not in kinds:
        raise Mismatch(
            f"{shown(spec.name)} is {spec.dtype} {list(spec.shape)}, and "
            f"{shown(site.entry.target)} needs {list(shape)}. Pass the base that it was trained "
            "on as --base."
        )
    return spec


def _category(target: str) -> str:
    """Name the modules that share a frame, as PEFT does."""
    parts = target.split(".")
    if len(parts) == 1 or parts[-2].isdigit():
        return parts[-1]
    if parts[-3:] == ["attention", "output", "dense"]:
        return "attention_output"
    return f"{parts[-2]}_{parts[-1]}"
