"""Other methods as the LoRA that they are equal to, or near to: factors, written out once.

`_sources` and `_convert_closed` give exact factors, `_convert_near` the nearest ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools.adapter import Adapter
from adaptertools.errors import Mismatch, shown
from adaptertools.formats._modules import cast
from adaptertools.formats._normal import spooled
from adaptertools.formats._peft_write import key, plain_config, whole_key
from adaptertools.update.factors import Factors
from adaptertools.verbs._sources import Source

if TYPE_CHECKING:
    from adaptertools.update import Array

_KEPT = ("base_model_name_or_path", "revision", "task_type", "fan_in_fan_out", "modules_to_save",
         "trainable_token_indices")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Low:
    """One module's change as factors, and the shape that PEFT wants them in."""

    target: str
    factors: Factors  # (out, r) · (r, in); of an embedding (tokens, r) · (r, dim)
    axes: tuple[int, ...]  # of the weight: (out, in), (out, in, *kernel), (tokens, dim)
    code: str  # the dtype to store
    embedding: bool = False
    nested: bool = False
    bias: Array | None = None  # what is added to the bias (lora_bias)
    whole_bias: Array | None = None  # the bias that takes the place of the base's


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A LoRA that lies in a temporary file."""

    adapter: Adapter
    ranks: tuple[int, int]  # the smallest and the largest
    error: float  # how far storing was off, relative to a factor's norm


def needed(adapter: Adapter) -> bool:
    """Tell whether its tensors are anything but the two factors of a LoRA."""
    return adapter.method != "LORA" or bool(adapter.config.get("use_bdlora"))


def lows(made: Source, code: str) -> Iterator[Low]:
    """Give the factors of an adapter whose tensors alone say them, scale folded in.

    They are stored in float64 where that is asked for, or some tensor is.
    """
    for entry in made.entries.values():
        wide = any(spec.dtype == "F64" for spec in entry.parts.values())
        yield Low(
            target=entry.target, factors=made.load(entry), axes=made.axes(entry.target),
            code="F64" if wide or code == "F64" else "F32", nested=entry.nested,
            embedding="lora_embedding_A" in entry.parts, bias=made.bias(entry),
        )  # fmt: skip


def write_out(adapter: Adapter, every: Iterable[Low], *, turned: bool = False) -> Written:
    """Store factors, each module at its own rank, beside what the adapter saves whole.

    `turned` says that the base stores some of them (in, out). Raises Mismatch where nothing is
    changed at all.
    """
    ranks: dict[str, int] = {}
    told: dict[str, Any] = {}
    errors = [0.0]

    def tensors() -> Iterator[tuple[str, Array]]:
        for low in every:
            ranks[low.target] = low.factors.rank
            for name, values in _named(low):
                stored, error = cast(values, low.code, name)
                errors.append(error)
                yield name, stored
            if low.bias is not None:
                told["lora_bias"] = True
            if low.whole_bias is not None:
                told["bias"] = "all"

    def config() -> dict[str, Any]:
        if not ranks:
            raise Mismatch(
                f"{shown(adapter.ref)} changes no weight: it was not trained, or only biases and "
                "whole modules were. There is no LoRA in it."
            )
        kept = {k: adapter.config[k] for k in _KEPT if adapter.config.get(k) is not None}
        kept |= {"fan_in_fan_out": True} if turned else {}
        if any(item.name.endswith(".bias") for item in adapter.saved):
            kept["bias"] = "all"
        return plain_config(ranks, sorted(ranks)) | kept | told

    lora = spooled(config, tensors(), Path(adapter.folder), adapter.ref, adapter.format)
    beside = [item.spec for item in adapter.saved] + [rows.spec for rows in adapter.rows]
    lora = replace(
        lora, saved=(*lora.saved, *adapter.saved), rows=adapter.rows,
        tensors={**lora.tensors, **{spec.name: spec for spec in beside}},
    )  # fmt: skip
    spread = (min(ranks.values()), max(ranks.values()))
    return Written(adapter=lora, ranks=spread, error=max(errors))


def _named(low: Low) -> Iterator[tuple[str, Array]]:
    """Give a module's tensors by PEFT's names and in its shapes."""
    found, target, nested = low.factors, low.target, low.nested
    if low.embedding:
        yield key(target, "lora_embedding_A"), found.up.T
        yield key(target, "lora_embedding_B"), found.down.T
        return
    out, *rest = low.axes
    inner = rest if len(rest) > 1 else [found.shape[1]]
    ones = [1] * (len(inner) - 1)
    yield key(target, "lora_A", nested=nested), found.down.reshape(found.rank, *inner)
    yield key(target, "lora_B", nested=nested), found.up.reshape(out, found.rank, *ones)
    if low.bias is not None:
        yield key(target, "lora_B.bias", nested=nested), low.bias
    if low.whole_bias is not None:
        yield whole_key(f"{target}.bias", "base_layer"), low.whole_bias
