"""What kind of adapter a config of AdapterHub's `adapters` describes.

Facts from adapters/configuration/adapter_config.py and loading.py: `architecture` names the
method, absent for bottlenecks; LoRA's variants share one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptertools import checkpoint
from adaptertools.errors import Unreadable, shown

CONFIG = "adapter_config.json"

# What none of PEFT's methods is; methods/_refused.py says why of each.
_OTHERS = {
    "prompt_tuning": "SOFT_PROMPT", "reft": "REFT", "mtl_lora": "MTL_LORA",
    "union": "UNION_OF_ADAPTERS",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Said:
    """A config, and what follows from it."""

    whole: Mapping[str, Any]
    file: str

    @property
    def own(self) -> Mapping[str, Any]:
        """The method's part; older files name a preset in its place."""
        own = self.whole.get("config")
        return own if isinstance(own, dict) else {}

    @property
    def name(self) -> str:
        """The adapter's name, which is in the names of its tensors."""
        return str(self.whole.get("name") or "")

    @property
    def model(self) -> str:
        """The type of the base, as transformers names it."""
        return str(self.whole.get("model_type") or "")

    @property
    def kind(self) -> str:
        """The method, in PEFT's word where it has one."""
        own, what = self.own, self.own.get("architecture")
        if what in _OTHERS:
            return _OTHERS[what]
        if what == "prefix_tuning":
            return "PREFIX_TUNING"
        if what != "lora":
            return "COMPACTER" if own.get("phm_layer") else "BOTTLENECK"
        if own.get("use_gating"):
            return "GATED_LORA"
        return "IA3" if own.get("composition_mode") == "scale" else "LORA"

    @property
    def scale(self) -> tuple[int, float]:
        """Rank and alpha, as the library takes them.

        Versions before 1.1.0 trained with alpha = r whatever they wrote down.
        Raises Unreadable where they are none.
        """
        rank, alpha = self.own.get("r"), self.own.get("alpha")
        number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
        if type(rank) is not int or not 0 < rank < 2**31 or not number or abs(alpha or 0) > 1e30:
            raise Unreadable(
                f"{shown(self.file)}: r is {shown(rank)} and alpha {shown(alpha)}; two numbers "
                "were expected. Fetch it again."
            )
        return rank, float(rank if self._faulty() else alpha or 0)

    def _faulty(self) -> bool:
        version = str(self.whole.get("version") or "")
        start, _, number = version.partition("adapters.")
        first, _, rest = number.partition(".")
        second = rest.partition(".")[0]
        digits = first.isdecimal() and second.isdecimal()
        return not start and digits and (int(first[:9]), int(second[:9])) < (1, 1)

    def peft(self, **more: Any) -> dict[str, Any]:
        """Give what PEFT's config says of the base, and `more`."""
        causal = str(self.whole.get("model_class") or "").endswith(("ForCausalLM", "LMHeadModel"))
        base = self.whole.get("model_name")
        return {
            "base_model_name_or_path": base if isinstance(base, str) and base else None,
            "task_type": "CAUSAL_LM" if causal else None, "inference_mode": True,
            "modules_to_save": None,
        } | more  # fmt: skip


def said(folder: Path) -> Said:
    """Read a config; raise Unreadable where it is none of AdapterHub's."""
    path = folder / CONFIG
    if not path.is_file():
        raise Unreadable(
            f"{shown(folder)} has weights of AdapterHub and no {CONFIG}: their method is not "
            "known. Fetch it too."
        )
    made = Said(whole=checkpoint.read_json(path), file=str(path))
    if "config" not in made.whole or not made.name:
        raise Unreadable(f"{shown(path)} has no config and name, so it is none of AdapterHub's.")
    return made
