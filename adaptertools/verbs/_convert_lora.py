"""Other methods as the LoRA that they are equal to: their factors, written out once.

`_sources` says which these are and gives the factors; nothing is approximated here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from adaptertools.adapter import Adapter, Entry
from adaptertools.formats._modules import cast
from adaptertools.formats._normal import spooled
from adaptertools.formats._peft_write import key, plain_config
from adaptertools.report import Finding
from adaptertools.verbs._sources import Source

if TYPE_CHECKING:
    from adaptertools.update import Array

_KEPT = ("base_model_name_or_path", "revision", "task_type", "fan_in_fan_out")


def needed(adapter: Adapter) -> bool:
    """Tell whether its tensors are anything but the two factors of a LoRA."""
    return adapter.method != "LORA" or bool(adapter.config.get("use_bdlora"))


def as_lora(made: Source) -> tuple[Adapter, Finding]:
    """Write the factors out, scale folded in, at each module's own rank."""
    adapter = made.adapter
    ranks = {target: low.rank for target, low in made.lows.items()}
    config = plain_config(ranks, sorted(ranks)) | {
        k: adapter.config[k] for k in _KEPT if adapter.config.get(k) is not None
    }
    errors = [0.0]

    def tensors() -> Iterator[tuple[str, Array]]:
        for entry in made.entries.values():
            for name, values, code in _factors(made, entry):
                stored, error = cast(values, code, name)
                errors.append(error)
                yield name, stored

    lora = spooled(config, tensors(), Path(adapter.folder), adapter.ref, adapter.format)
    text = (
        f"{adapter.method}{' with blocks' * (adapter.method == 'LORA')} written as LoRA of rank "
        f"{min(ranks.values())} to {max(ranks.values())}: the same update, stored to "
        f"{max(errors):.1g} of it."
    )
    return lora, Finding(code="CNV013", level="note", place=adapter.ref, text=text)


def _factors(made: Source, entry: Entry) -> Iterator[tuple[str, Array, str]]:
    """Give a module's tensors in float64, with the dtype to store them in."""
    found, axes, target = made.load(entry), made.axes(entry.target), entry.target
    code = "F64" if any(spec.dtype == "F64" for spec in entry.parts.values()) else "F32"
    if "lora_embedding_A" in entry.parts:
        yield key(target, "lora_embedding_A"), found.up.T, code
        yield key(target, "lora_embedding_B"), found.down.T, code
        return
    out, *rest = axes
    inner = rest if len(rest) > 1 else [found.shape[1]]
    ones = [1] * (len(inner) - 1)
    down, up = found.down.reshape(found.rank, *inner), found.up.reshape(out, found.rank, *ones)
    yield key(target, "lora_A", nested=entry.nested), down, code
    yield key(target, "lora_B", nested=entry.nested), up, code
