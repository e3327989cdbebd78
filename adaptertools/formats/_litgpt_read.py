"""LitGPT's LoRA as PEFT's: q, k and v apart where transformers has them apart, else together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adaptertools import tensorfile
from adaptertools.adapter import Adapter
from adaptertools.errors import Mismatch, Unreadable, Unsupported, first, shown
from adaptertools.formats import _bin
from adaptertools.formats._litgpt_model import TRAINING, Model, model, read_yaml
from adaptertools.formats._litgpt_names import Part, Place, places
from adaptertools.formats._normal import spooled
from adaptertools.formats._peft_write import key
from adaptertools.formats._scaled import scaled_config
from adaptertools.formats._side_by_side import Pair, grouped, joined
from adaptertools.tensorfile import FLOATS, TensorSpec

if TYPE_CHECKING:
    from adaptertools.update import Array

NAME = "lit_model.pth.lora"
_SLOTS = {"q": "lora_query", "k": "lora_key", "v": "lora_value"}

_Factors = Mapping[str, Mapping[str, TensorSpec]]


def read(path: Path, ref: str, base: Path | None = None) -> Adapter:
    """Read what `litgpt finetune` wrote, without unpickling; the factors go to a temporary file.

    model_config.yaml is looked for beside the file, then in `base`, LitGPT's folder of the model.
    Raises NotFound without it, Unreadable where rank and alpha are not known or tensors are
    missing, Unsupported for names of older versions, Mismatch where shapes are not the model's.
    """
    file = path / NAME if path.is_dir() else path
    held = model(file.parent, base)
    rank, alpha, slots = _training(file.with_name(TRAINING))
    found = _factors(file)
    here = [p for p in places(held) if any(_there(part, found, slots) for part in p.parts)]
    known = {part.module for place in here for part in place.parts}
    if odd := sorted(found.keys() - known):
        raise Unsupported(
            f"{shown(file)}: {first(odd, 3)} are no modules of {shown(held.name)} that LitGPT's "
            f"{TRAINING} says it adapts, and leaving them out could change the result."
        )
    for place in here:
        for part in place.parts:
            if _there(part, found, slots):
                _check(part, found[part.module], slots, held, rank)
    here = [place for place in here if _says(_loaded(place, found, slots, held))]
    if not here:
        raise Unreadable(f"{shown(file)} is all zeros: it was saved before it was made.")
    ranks = {place.target: _rank(place, found, slots, held, rank) for place in here}
    config = scaled_config(
        {target: (own, alpha * own / rank) for target, own in ranks.items()},
        task_type="CAUSAL_LM", base_model_name_or_path=held.repo or None,
    )  # fmt: skip
    return spooled(config, _named(here, found, slots, held), file.parent, ref, "litgpt")


def _training(file: Path) -> tuple[int, float, str]:
    """Give rank, alpha, and which of q, k and v are adapted."""
    if not file.is_file():
        raise Unreadable(
            f"{shown(file)} is not there, so rank and alpha are not known. Fetch the one that "
            "LitGPT wrote beside the weights."
        )
    said = read_yaml(file)
    rank, alpha = said.get("lora_r"), said.get("lora_alpha")
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if type(rank) is not int or not 0 < rank < 2**31 or not number or not abs(alpha or 0) < 1e30:
        raise Unreadable(
            f"{shown(file)}: lora_r is {shown(rank)} and lora_alpha {shown(alpha)}; two numbers "
            "were expected. Fetch the one that LitGPT wrote beside the weights."
        )
    return rank, float(alpha or 0), "".join(slot for slot, flag in _SLOTS.items() if said.get(flag))


def _factors(file: Path) -> _Factors:
    """Group the tensors by module; none may be left over."""
    found: dict[str, dict[str, TensorSpec]] = {}
    for name, spec in _bin.tensors(file, inside="model").items():
        module, _, role = name.rpartition(".")
        if role not in ("lora_A", "lora_B") or spec.dtype not in FLOATS or len(spec.shape) != 2:
            raise Unsupported(
                f"{shown(file)}: {shown(name)} is no factor of LitGPT's LoRA. Adapters of LitGPT's "
                "`finetune adapter` are another method, which changes no weight."
            )
        if ".attn.attn" in name:
            raise Unsupported(
                f"{shown(name)} has the name of LitGPT before 0.5.4, which mixed the rows of q, k "
                "and v. Merge it with the LitGPT that wrote it."
            )
        found.setdefault(module, {})[role] = spec
    if half := [module for module, parts in found.items() if len(parts) < 2]:
        raise Unreadable(f"{shown(file)}: {first(half)} has not both factors. Fetch it again.")
    if not found:
        raise Unreadable(f"{shown(file)} holds no tensors.")
    return found


def _there(part: Part, found: _Factors, slots: str) -> bool:
    return part.module in found and part.slot in slots


def _check(part: Part, parts: Mapping[str, TensorSpec], slots: str, held: Model, rank: int) -> None:
    """Hold the factors' shapes against the model's, and the ranks against the config's."""
    count = len(slots) if part.slot else 1
    rows = sum(held.rows(slot) for slot in slots) if part.slot else part.rows
    shapes = parts["lora_A"].shape, parts["lora_B"].shape
    if shapes != ((rank * count, part.columns), (rows, rank)):
        raise Mismatch(
            f"{shown(part.module)}: lora_A is {list(shapes[0])} and lora_B {list(shapes[1])}, and "
            f"the configs beside it make {[rank * count, part.columns]} and {[rows, rank]} of it. "
            "Put those beside the weights that they were saved with."
        )


def _loaded(place: Place, found: _Factors, slots: str, held: Model) -> Pair:
    """Read a module's factors, those of its parts joined."""
    import numpy as np

    pairs = [
        _pair(part, found[part.module], slots, held) if _there(part, found, slots) else None
        for part in place.parts
    ]
    if len(pairs) == 1 and pairs[0]:
        return pairs[0]
    down, up = joined(pairs, [part.rows for part in place.parts], common=True)
    return down, np.ascontiguousarray(up[grouped(*held.heads)]) if place.turned else up


def _pair(part: Part, parts: Mapping[str, TensorSpec], slots: str, held: Model) -> Pair:
    down, up = tensorfile.read(parts["lora_A"]), tensorfile.read(parts["lora_B"])
    if not part.slot:
        return down, up
    at, rank = slots.index(part.slot), up.shape[1]
    start = sum(held.rows(slot) for slot in slots[:at])
    return down[at * rank : (at + 1) * rank], up[start : start + part.rows]


def _says(pair: Pair) -> bool:
    """Tell an update from what stands for none: LitGPT has zeros in both factors there."""
    return any(values.any() for values in pair)


def _rank(place: Place, found: _Factors, slots: str, held: Model, rank: int) -> int:
    return rank if len(place.parts) == 1 else len(_loaded(place, found, slots, held)[0])


def _named(
    here: Sequence[Place], found: _Factors, slots: str, held: Model
) -> Iterator[tuple[str, Array]]:
    for place in here:
        down, up = _loaded(place, found, slots, held)
        yield key(place.target, "lora_A"), down
        yield key(place.target, "lora_B"), up
