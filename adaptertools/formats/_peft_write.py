"""Write a plain PEFT LoRA: exact targets, the scale in the factors, tensors one after the other.

alpha is the rank of every module, so each scale is 1, for readers of patterns and for others.
Names as in peft/utils/save_and_load.py, matching as in tuners/tuners_utils.py and utils/other.py.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from adaptertools.errors import Unsupported, first
from adaptertools.patterns import pattern_value
from adaptertools.peft_keys import PREFIX, ROWS
from adaptertools.tensorfile import encode_header, raw_bytes

if TYPE_CHECKING:
    from adaptertools.update import Array

Line = tuple[str, str, tuple[int, ...]]  # name, dtype and shape of a tensor

_METADATA = {"format": "pt"}  # exactly what PEFT writes


def key(target: str, role: str, *, nested: bool = False) -> str:
    """Give the name of a tensor of a module: role is "lora_A", "lora_B.bias", …"""
    if nested:
        above, _, last = target.rpartition(".")
        target = f"{above}.base_layer.{last}"
    if role.endswith(".bias") or role.startswith("lora_embedding"):
        return f"{PREFIX}{target}.{role}"
    return f"{PREFIX}{target}.{role}.weight"


def whole_key(name: str, wrapper: str = "") -> str:
    """Give the name of a whole tensor, such as `lm_head.weight`, which may lie in a wrapper."""
    module, _, last = name.rpartition(".")
    return PREFIX + (f"{module}.{wrapper}.{last}" if wrapper else name)


def rows_key(target: str) -> str:
    """Give the name of an embedding's trained rows."""
    return f"{PREFIX}{target}.token_adapter.{ROWS}"


class Writer:
    """A safetensors file whose ranks become known while it is written.

    The header is reserved for the longest that it can become, and padded with spaces, which the
    format allows. Tensors are written once, in the order in which they come.
    """

    def __init__(self, path: Path, most: Iterable[Line]) -> None:
        self._room = len(encode_header(most, _METADATA))
        self._file = path.open("wb")
        self._file.seek(self._room)
        self._lines: list[Line] = []

    def add(self, name: str, dtype: str, values: Array) -> None:
        """Append a tensor whose array is in that dtype already."""
        self.stream(name, dtype, values.shape, [values])

    def stream(
        self, name: str, dtype: str, shape: tuple[int, ...], pieces: Iterable[Array]
    ) -> None:
        """Append a tensor that comes in pieces, its rows in their order."""
        import numpy as np

        self._lines.append((name, dtype, shape))
        for piece in pieces:
            self._file.write(raw_bytes(np.ascontiguousarray(piece)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        with self._file:
            if error is None:
                raw = encode_header(self._lines, _METADATA)
                text = raw[8:] + b" " * (self._room - len(raw))
                self._file.seek(0)
                self._file.write(len(text).to_bytes(8, "little") + text)
                self._file.flush()
                os.fsync(self._file.fileno())


def config_text(config: Mapping[str, Any]) -> str:
    """Write adapter_config.json as PEFT does: sorted."""
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def plain_config(ranks: Mapping[str, int], targets: Sequence[str]) -> dict[str, Any]:
    """Give the keys of a LoRA that has these ranks: `r` is the largest, patterns say the others."""
    largest = max(ranks.values())
    patterns = _patterns(ranks, largest)
    return {
        "peft_type": "LORA", "r": largest, "lora_alpha": largest, "rank_pattern": patterns,
        "alpha_pattern": patterns, "target_modules": list(targets), "inference_mode": True,
        "init_lora_weights": True, "lora_dropout": 0.0, "use_rslora": False, "use_dora": False,
    }  # fmt: skip


def _patterns(ranks: Mapping[str, int], usual: int) -> dict[str, int]:
    """Give ranks that differ from the usual one, by the module's last name where that will do."""
    kinds = defaultdict(set)
    for target, rank in ranks.items():
        kinds[target.rpartition(".")[2]].add(rank)
    found = {}
    for target, rank in ranks.items():
        last = target.rpartition(".")[2]
        if rank != usual:
            found[last if len(kinds[last]) == 1 else target] = rank
    patterns = dict(sorted(found.items()))  # PEFT takes the first that matches, and sorts them
    said = {"rank_pattern": patterns}
    if odd := [t for t in ranks if pattern_value(said, "rank_pattern", t, usual) != ranks[t]]:
        raise Unsupported(
            f"{first(odd)}: no rank_pattern tells these modules from others by their names. "
            "Ask for one rank for all, with --uniform-rank."
        )
    return patterns


def exact_targets(
    adapted: Collection[str], lists: Collection[Any], every: Collection[str]
) -> list[str]:
    """Give `target_modules` that stand for the adapted modules and for no others.

    `lists` are what the sources say where nothing else decides, and `every` all modules that they
    adapt. Their short names are kept where each module that they stand for is still adapted; else
    each module is named in full.
    """
    short = sorted({name for names in lists for name in names}) if _listed(lists) else []
    short = [name for name in short if any(_fits(target, name) for target in adapted)]
    hit = {target for target in every if any(_fits(target, name) for name in short)}
    return short if short and hit == set(adapted) else sorted(adapted)


def _listed(lists: Collection[Any]) -> bool:
    """Tell whether every source names its targets one by one."""
    return all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists
    )


def _fits(target: str, name: str) -> bool:
    """Tell what PEFT's check_target_module_exists tells of a list."""
    return target == name or target.endswith(f".{name}")
