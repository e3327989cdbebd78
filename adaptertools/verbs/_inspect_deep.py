"""How large each module's change is, and how many directions it takes: from the factors alone.

‖ΔW‖ and the singular values of ΔW = s·B·A are those of s·R_B·R_Aᵀ, where R_B and R_A are the
triangles of QR factorisations of B and Aᵀ. Those are built up piece by piece, so that neither ΔW
nor a whole factor is ever in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from adaptertools import tensorfile
from adaptertools.adapter import Adapter, Entry, Factor, Site
from adaptertools.errors import AdapterToolsError, Unreadable, Unsupported, shown
from adaptertools.methods import Method
from adaptertools.tensorfile import TensorSpec
from adaptertools.update.dora import Dora
from adaptertools.update.lowrank import LowRank, Product

if TYPE_CHECKING:
    from adaptertools.update import Array

WIDEST = 1536  # inner dimension; some squares of it are in memory at a time
PIECE = 1 << 21  # elements of a factor that are in memory at a time

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """The size of one module's change; None is unknown, and `why` says why."""

    target: str
    norm: float | None = None  # Frobenius
    spectral: float | None = None  # the largest singular value
    effective_rank: float | None = None  # e to the entropy of the singular values
    stable_rank: float | None = None  # (Frobenius / spectral)²
    rank: int | None = None  # singular values that are more than rounding
    zeros: float | None = None  # share of zeros in the factor that starts as zeros: lora_B
    why: str = ""
    # Of fused experts norm and spectral are of all; the ranks are medians over those that change,
    # and the largest. Several of their parameters may have one target.
    experts: int = 1
    still: int = 0  # experts whose change is zero
    level: int = 0  # how many `base_layer` the file has before the role

    @property
    def name(self) -> str:
        """Name it as its file does."""
        return f"{self.target}{'.base_layer' * self.level}"


def measure(adapter: Adapter, method: Method, progress: Progress) -> Iterator[Norm]:
    """Measure module after module; one that cannot be measured says why."""
    for entry in adapter.entries:
        try:
            yield _measured(entry, _low_rank(entry, method, adapter.config))
        except AdapterToolsError as error:
            yield Norm(target=entry.target, why=str(error))
        progress(sum(spec.nbytes for spec in entry.parts.values()))


def _low_rank(entry: Entry, method: Method, config: Mapping[str, Any]) -> LowRank:
    """Let the method say what it adds; what a base would have to say is stood in for."""
    if scattered := [spec.name for spec in entry.parts.values() if spec.start < 0]:
        raise Unsupported(f"{shown(scattered[0])} is a view that does not lie in one piece.")
    _check_blocks(config.get("use_bdlora") or {})
    up, down = entry.parts.get("lora_B"), entry.parts.get("lora_A")
    shape = (up.rows, *down.shape[1:]) if up and down else (0,)
    site = Site(
        entry=entry, config=config, weight=TensorSpec("", "F32", shape, "", 0, 0), bias=None,
        transposed=False, attention=entry.nested, mha_out_proj="once",
    )  # fmt: skip
    for update in method.updates(site):
        if isinstance(update, LowRank | Dora):
            return update.low if isinstance(update, Dora) else update
    raise Unsupported(f"{shown(entry.target)}: its change is no product of two factors.")


def _check_blocks(config: Mapping[str, Any]) -> None:
    """Refuse what BD-LoRA's config cannot mean."""
    count = config.get("nblocks", 1)
    names = [config.get(f"target_modules_bd_{side}") or [] for side in "ab"]
    lists = all(isinstance(n, list) and all(isinstance(s, str) for s in n) for n in names)
    if type(count) is not int or count < 1 or not lists:
        raise Unreadable("use_bdlora in adapter_config.json is not as PEFT writes it.")


def _measured(entry: Entry, low: LowRank) -> Norm:
    import numpy as np

    if low.rank > WIDEST:
        raise Unsupported(
            f"{shown(entry.target)} has rank {low.rank}; at most {WIDEST} is looked at."
        )
    assert isinstance(low.up, Factor)
    assert isinstance(low.down, Factor)
    zeros = [0]
    up = _triangle(low.up, not low.up.transposed, zeros)
    down = _triangle(low.down, low.down.transposed, [0])
    if low.up.diagonal is not None:
        up = up * tensorfile.read(low.up.diagonal).astype("float64")
    with np.errstate(all="ignore"):
        product = Product(up * low.scale, down.T)
        core = product.up @ product.down
        norm = product.norm()
    if not (np.isfinite(core).all() and np.isfinite(norm)):
        raise Unreadable(f"{shown(entry.target)} is too large to be measured.")
    values = np.linalg.svd(core, compute_uv=False)
    return Norm(
        target=entry.target, norm=norm, zeros=zeros[0] / max(prod(low.up.spec.shape), 1),
        **ranks(values, max(low.shape)),
    )  # fmt: skip


def ranks(values: Array, longest: int) -> dict[str, Any]:
    """Count directions in three ways; the tolerance is that of numpy.linalg.matrix_rank."""
    import numpy as np

    largest = float(values.max(initial=0.0))
    if largest == 0:
        return {"spectral": 0.0, "effective_rank": 0.0, "stable_rank": 0.0, "rank": 0}
    shares = values[values > 0] / values.sum()
    return {
        "spectral": largest,
        "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())),
        "stable_rank": float(((values / largest) ** 2).sum()),
        "rank": int((values > largest * longest * np.finfo("float64").eps).sum()),
    }


def _triangle(factor: Factor, tall: bool, zeros: list[int]) -> Array:
    """Give R of the factor's QR, of its transpose where it is stored wide; count its zeros."""
    import numpy as np

    spec, made = factor.spec, []
    if spec.rows % factor.blocks:
        raise Unreadable(f"{shown(spec.name)} is no {factor.blocks} blocks of equal height.")
    step = spec.rows // factor.blocks
    for row in range(0, spec.rows, step):
        held: Array | None = None
        for piece in _pieces(_rows(spec, row, row + step), tall):
            if not np.isfinite(piece).all():
                raise Unreadable(f"{shown(spec.name)} holds NaN or infinity.")
            zeros[0] += int((piece == 0).sum())
            stacked = piece if held is None else np.vstack((held, piece))
            held = np.asarray(np.linalg.qr(stacked, mode="r"))
        if held is not None:
            made.append(held)
    return _diagonal(made)


def _diagonal(blocks: list[Array]) -> Array:
    import numpy as np

    whole = np.zeros((sum(len(b) for b in blocks), sum(b.shape[1] for b in blocks)))
    row = column = 0
    for block in blocks:
        whole[row : row + len(block), column : column + block.shape[1]] = block
        row, column = row + len(block), column + block.shape[1]
    return whole


def _pieces(spec: TensorSpec, tall: bool) -> Iterator[Array]:
    """Read a stored matrix piece by piece, each with the inner dimension as its columns."""
    import numpy as np

    inner, length = (spec.columns, spec.rows) if tall else (spec.rows, spec.columns)
    step = max(PIECE // max(inner, 1), inner, 1)
    for start in range(0, length, step):
        stop = min(start + step, length)
        if tall or stop - start == length:
            part = tensorfile.read(_rows(spec, start, stop) if tall else spec)
            array = part.reshape(-1, spec.columns).astype("float64")
        else:
            rows = (_columns(spec, row, start, stop) for row in range(inner))
            array = np.stack([tensorfile.read(each).astype("float64") for each in rows])
        yield array if tall else array.T


def _rows(spec: TensorSpec, start: int, stop: int) -> TensorSpec:
    """Give some rows of a stored matrix as a tensor of its own."""
    size = spec.nbytes // max(spec.rows, 1)
    first = spec.start + start * size
    return spec._replace(
        shape=(stop - start, spec.columns), start=first, stop=spec.start + stop * size
    )


def _columns(spec: TensorSpec, row: int, start: int, stop: int) -> TensorSpec:
    """Give some columns of one row as a tensor of its own."""
    size = spec.nbytes // max(spec.rows * spec.columns, 1)
    at = spec.start + (row * spec.columns + start) * size
    return spec._replace(shape=(stop - start,), start=at, stop=at + (stop - start) * size)
