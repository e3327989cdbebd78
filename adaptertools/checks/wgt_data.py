"""WGT: what the numbers say; read one module at a time, with --deep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from adaptertools.checks import _names, check
from adaptertools.errors import AdapterToolsError, first, shown
from adaptertools.facts import Data, Found, Result
from adaptertools.tensorfile import FLOATS, TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array

Config = Mapping[str, Any]
LARGE, HUGE = 10.0, 1e3  # times the median norm; a norm that nothing sound has


class Pair(NamedTuple):
    """The two factors of one module, loaded: B (out, r) and A (r, in)."""

    module: str
    up: Array
    down: Array


def _pairs(data: Data) -> Iterator[Pair]:
    for module, parts in _names.modules(data.weights.tensors).items():
        for a, b in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")):
            if a in parts and b in parts and _sound(parts[a], parts[b]):
                down, up = data.read(parts[a].name), data.read(parts[b].name)
                yield Pair(module, up.reshape(len(up), -1), down.reshape(len(down), -1))


def _sound(a: TensorSpec, b: TensorSpec) -> bool:
    matrices = len(a.shape) >= 2 and len(b.shape) >= 2
    floats = a.dtype in FLOATS and b.dtype in FLOATS
    return matrices and floats and a.shape[0] == b.shape[1] and 0 not in (*a.shape, *b.shape)


@check("WGT013", "all numbers are finite", fix="Use an earlier checkpoint.")
def finite(data: Data) -> Result:
    """NaN and infinity come from a run that diverged; only a safe merge notices."""
    from adaptertools import tensorfile

    tensors = data.weights.tensors
    bad = [n for n, s in tensors.items() if s.dtype in FLOATS and not tensorfile.finite(s)]
    if bad:
        yield Found(
            text=f"{len(bad)} of {len(tensors)} tensors hold NaN or infinity: {first(bad, 3)}.",
            file=data.weights.file, tensor=bad[0],
        )  # fmt: skip


_AT_START = {  # by method: what begins at a number that changes nothing, and the number
    "LORA": (("lora_B.", "lora_embedding_A"), 0), "ADALORA": (("lora_E",), 0),
    "VERA": (("vera_lambda_b",), 0), "LOHA": (("hada_w2_b",), 0), "LOKR": (("lokr_w1",), 0),
    "IA3": (("ia3_l",), 1),
}  # fmt: skip
_FROM_ZERO = (True, None, "gaussian", "eva")  # inits of LoRA that begin with B at zero


@check("WGT014", "it was trained", fix="Publish a later checkpoint; this one is the base model.")
def trained(config: Config, data: Data) -> Result:
    """Half of the factors start at zero, so that training starts from the base model.

    Where they are still zero, nothing was learned, or the weights were saved before they were
    gathered (DeepSpeed). Three of 25 adapters that were found in public are like that. Inits such
    as PiSSA's do not begin at zero: there, not even training that never ran can be seen.
    """
    roles, start = _AT_START.get(str(config.get("peft_type")), ((), 0))
    if config.get("peft_type") == "LOKR" and config.get("init_weights") == "lycoris":
        roles = ("lokr_w2",)
    names = [name for name, s in data.weights.tensors.items() if s.dtype in FLOATS]
    names = [n for n in names if any(f".{r}" in f"{n}." for r in roles) and ".bias" not in n]
    if config.get("peft_type") == "LOKR":
        names = _last_of(names)
    idle = [name for name in names if (data.read(name) == start).all()]
    if idle and len(idle) == len(names):
        yield Found(
            text=f"All {len(idle)} tensors that training moves are {start}, so that the adapter "
            "changes nothing.",
            file=data.weights.file,
        )
    elif idle:
        zero = config.get("peft_type") != "LORA" or config.get("init_lora_weights") in _FROM_ZERO
        yield Found(
            text=f"{len(idle)} of {len(names)} tensors that training moves are {start} still: "
            f"{first(idle, 3)}.",
            file=data.weights.file, tensor=idle[0], level="warning" if zero else "note",
        )  # fmt: skip


def _last_of(names: list[str]) -> list[str]:
    """Leave out the factor that begins at random where both of w1 are there."""
    return [n for n in names if not n.removesuffix(".weight").endswith(("w1_b", "w2_a"))]


@check("WGT015", "no module explodes", level="warning", fix="Look at the run's loss there.")
def exploding(config: Config, data: Data) -> Result:
    """An update ten times as large as the median of its kind is where a run went wrong.

    It is measured as the Frobenius norm of s·B·A, which is not formed for that.
    """
    if config.get("target_parameters"):
        return  # one file entry holds the factors of many experts
    norms = {pair.module: _scale(config, pair) * _norm(pair) for pair in _pairs(data)}
    kinds: dict[str, list[float]] = {}
    for module, norm in norms.items():
        kinds.setdefault(module.rpartition(".")[2], []).append(norm)
    for module, norm in norms.items():
        usual = median(kinds[module.rpartition(".")[2]])
        if norm > HUGE or (usual > 0 and norm > LARGE * usual):
            yield Found(
                text=f"{shown(module)}: the update's norm is {norm:.3g}, the median of its kind "
                f"{usual:.3g}.",
                file=data.weights.file,
            )


def _scale(config: Config, pair: Pair) -> float:
    try:
        alpha = float(_names.number(config, "alpha_pattern", pair.module, config["lora_alpha"]))
    except (AdapterToolsError, KeyError):
        return 1.0
    rank = pair.up.shape[1]
    return alpha / float(rank**0.5 if config.get("use_rslora") is True else rank)


def _norm(pair: Pair) -> float:
    """Give ‖B·A‖ without forming it: its square is tr((BᵀB)(AAᵀ))."""
    import numpy as np

    with np.errstate(all="ignore"):
        up, down = pair.up.astype("float64"), pair.down.astype("float64")
        square = float(((up.T @ up) * (down @ down.T)).sum())
    return float(max(square, 0.0) ** 0.5)


@check("WGT016", "the rank is used", level="note", fix="Train with a smaller r, or cut this one.")
def used(config: Config, data: Data) -> Result:
    """Where singular values of B·A are zero, a smaller rank would hold the same update."""
    import numpy as np

    if config.get("target_parameters"):
        return

    spare: list[tuple[str, int, int]] = []
    for pair in _pairs(data):
        rank = pair.up.shape[1]
        if not (np.isfinite(pair.up).all() and np.isfinite(pair.down).all()):
            continue
        left = np.linalg.qr(pair.up.astype("float64"))[1]
        right = np.linalg.qr(pair.down.astype("float64").T)[1]
        values = np.linalg.svd(left @ right.T, full_matrices=False, compute_uv=False)
        need = int((values > 1e-6 * values.max(initial=0)).sum())
        if 0 < need < min(rank, *pair.up.shape, *pair.down.shape):
            spare.append((pair.module, need, rank))
    if spare:
        most = max(need for _, need, _ in spare)
        module, need, rank = spare[0]
        yield Found(
            text=f"{len(spare)} modules use fewer than their rank, {most} at most; "
            f"{shown(module)} {need} of {rank}.",
            file=data.weights.file,
        )
