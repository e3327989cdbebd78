"""What the user may ask of a merge, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptertools.errors import Unsupported, shown
from adaptertools.verbs import _config
from adaptertools.verbs._shards import parse_size

_KNOWN: dict[str, Sequence[str | None]] = {
    "tied": ("untie", "keep"),
    "mha_out_proj": (None, "once", "twice"),
    "expert_packing": (None, "peft", "expert-major"),
    "quant": ("keep", "none", "4bit", "nf4", "fp4", "8bit", "int8"),
    "rounding": (None, "adapter", "stochastic", "nearest", "search"),
    "base_weights": ("as-stored", "original"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """As `plan` documents them; raises Unsupported or Unreadable for what does not exist."""

    dtype: str | None
    max_shard_size: str | int | None
    tied: str
    mha_out_proj: str | None
    expert_packing: str | None
    allow_nonfinite: bool
    quant: str
    rounding: str | None
    double_quant: bool | None
    block_size: int | None
    seed: int
    min_retention: float | None
    force: bool
    base_weights: str
    original: str | Path | None

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            value = getattr(self, name)
            if value not in known:
                raise Unsupported(
                    f"--{name.replace('_', '-')} {shown(value)} is unknown. "
                    f"Known: {', '.join(map(str, known))}."
                )
        fourbit = self.quant in ("4bit", "nf4", "fp4") or self.base_weights == "original"
        for name in ("double_quant", "block_size"):
            if getattr(self, name) is not None and not fourbit:
                raise Unsupported(
                    f"--{name.replace('_', '-')} says how 4-bit weights are made, and --quant "
                    f"{self.quant} makes none. Pass --quant nf4 or fp4 with it."
                )
        if self.original is not None and self.base_weights != "original":
            raise Unsupported("--original has no effect without --base-weights original.")
        least = self.min_retention
        if least is not None and not 0 <= least <= 1:
            raise Unsupported(
                f"--min-retention {least:g} is no share. Give a number from 0 to 1."
            )  # fmt: skip
        _ = self.code, self.size

    @property
    def code(self) -> str | None:
        """The header's code of `dtype`."""
        return _config.dtype_code(self.dtype) if self.dtype else None

    @property
    def size(self) -> int | None:
        """`max_shard_size` in bytes."""
        return parse_size(self.max_shard_size) if self.max_shard_size is not None else None

    def as_json(self) -> dict[str, Any]:
        """Give what plans and receipts say of them."""
        said = {name: getattr(self, name) for name in self.__dataclass_fields__}
        original = str(self.original) if self.original else None
        return {**said, "max_shard_size": self.size, "original": original}
