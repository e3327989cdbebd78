"""What each family calls the weights of its experts: one by one on disk, fused in transformers 5.

Held by a test against transformers' own conversion_mapping.py (5.23). A family that is not here has
no experts that are told apart by name, or has some that transformers stores in another way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_GATED: Mapping[str, tuple[str, ...]] = {
    "gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",),
}  # fmt: skip
_NUMBERED: Mapping[str, tuple[str, ...]] = {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}
_UNGATED: Mapping[str, tuple[str, ...]] = {"up_proj": ("up_proj",), "down_proj": ("down_proj",)}
_FUSED_ONLY: Mapping[str, tuple[str, ...]] = {"gate_up_proj": (), "down_proj": ()}

_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_HIDDEN, _LAYERS = ("hidden_size",), ("num_hidden_layers",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertNames:
    """One family's names; a module's parameters in the order in which it registers them."""

    above: str = "mlp"  # the module that has `experts`, in transformers 5
    apart: str = ""  # and where they are one by one; empty where it is called the same
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _GATED)
    gate: str = "gate"  # the router, in transformers 5
    in_out: bool = False  # stored (in, out), as `is_transposed` says in transformers

    @property
    def splits(self) -> bool:
        """Whether there are names for single experts."""
        return all(self.parts.values())

    @property
    def fused(self) -> str:
        """What a module of all experts ends with."""
        return f".{self.above}.experts"

    def single(self, module: str, expert: int, part: str) -> str:
        """Name one expert's module: `model.layers.0.mlp.experts` -> `….experts.3.gate_proj`."""
        stem = module.removesuffix(f"{self.above}.experts")
        return f"{stem}{self.apart or self.above}.experts.{expert}.{part}"

    @property
    def _routers(self) -> tuple[str, str]:
        """Name it where experts are apart, and where they are fused."""
        return f"{self.apart or self.above}.gate", f"{self.above}.{self.gate}"

    def router(self, target: str) -> bool:
        """Tell a router, which transformers 5 has as a weight and not as a module of its own."""
        return any(f".{target}".endswith(f".{each}") for each in self._routers)

    def renamed(self, name: str, *, fused: bool) -> str:
        """Give a router's name, or its tensor's, in the other layout; others stay."""
        old, new = self._routers if fused else self._routers[::-1]
        return f".{name}.".replace(f".{old}.", f".{new}.")[1:-1]

    def taken(self, target: str) -> tuple[str, str, int, str] | None:
        """Take one expert's name apart: fused module, parameter, number, part; None for others."""
        stem, dot, part = target.rpartition(".")
        stem, _, number = stem.rpartition(".")
        found = next((name for name, parts in self.parts.items() if part in parts), None)
        if not dot or found is None or not number.isdecimal() or len(number) > 6:
            return None
        for above in (self.apart, self.above):
            if above and f".{stem}".endswith(f".{above}.experts"):
                head = stem.removesuffix(f"{above}.experts")
                return f"{head}{self.above}.experts", found, int(number), part
        return None


_PLAIN = ExpertNames()
_SPARSE = ExpertNames(apart="block_sparse_moe", parts=_NUMBERED)

_FAMILIES: Mapping[str, ExpertNames] = {
    "gpt_oss": ExpertNames(parts=_FUSED_ONLY, in_out=True),
    "jamba": ExpertNames(above="feed_forward"),
    "lfm2_moe": ExpertNames(above="feed_forward", parts=_NUMBERED),
    "minimax": _SPARSE,
    "minimax_m2": _SPARSE,
    "mixtral": _SPARSE,
    "nemotron_h": ExpertNames(above="mixer", parts=_UNGATED),
    "phimoe": ExpertNames(apart="block_sparse_moe", parts=_NUMBERED, gate="router"),
} | dict.fromkeys(
    ("afmoe", "axk1", "bailing_hybrid", "cohere2_moe", "deepseek_v2", "deepseek_v3",
     "deepseek_v32", "dots1", "ernie4_5_moe", "exaone_moe", "flex_olmo", "glm4_moe",
     "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe", "hy_v3", "laguna",
     "longcat_flash", "mimo_v2_flash", "olmoe", "qwen2_moe", "qwen3_5_moe_text", "qwen3_moe",
     "qwen3_next", "qwen3_omni_moe_text", "solar_open"),
    _PLAIN,
)  # fmt: skip


def families() -> Mapping[str, ExpertNames]:
    """Give every family that is known, by model type."""
    return _FAMILIES


class Sizes(NamedTuple):
    """A model's names, and what its config says in numbers; 0 where it does not."""

    names: ExpertNames
    experts: int
    hidden: int
    layers: int


def expert_names(config: Mapping[str, Any]) -> Sizes | None:
    """Look a model up by its config.

    None where neither the model type nor that of a nested config is known.
    """
    for each in (config, *(value for value in config.values() if isinstance(value, dict))):
        if names := _FAMILIES.get(str(each.get("model_type"))):
            return Sizes(names, *(_number(each, keys) for keys in (_COUNTS, _HIDDEN, _LAYERS)))
    return None


def _number(config: Mapping[str, Any], keys: tuple[str, ...]) -> int:
    values = (config.get(key) for key in keys)
    return next((n for n in values if type(n) is int and n > 0), 0)
