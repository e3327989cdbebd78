"""A LoRA that every reader takes: PEFT's folder with one rank, one alpha, and no patterns.

Scales are folded into lora_B and ranks padded with zeros; both change no update. Readers that
ignore rank_pattern, alpha_pattern or use_rslora cannot get it wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools.adapter import Adapter
from adaptertools.errors import Unsupported, shown
from adaptertools.formats import Ask, Wrote
from adaptertools.formats._modules import Module, common_scale, modules, shape_for
from adaptertools.formats._normal import save
from adaptertools.formats._peft_write import config_text, key
from adaptertools.formats.peft import CONFIG, WEIGHTS

if TYPE_CHECKING:
    from adaptertools.update import Array

HOLDS = frozenset({"conv", "embedding", "nested"})
SUFFIX = ""
LACKS = "DoRA, biases, saved modules, token rows: nothing but factors, of one rank and alpha"
PROVED = "PEFT 0.21.2"
OPTIONS = {"scale": "`1` folds all scales, for readers that know of no alpha"}

# Keys of the source's config that say where it belongs, kept as they are.
_KEPT = ("base_model_name_or_path", "revision", "task_type", "auto_mapping", "fan_in_fan_out",
         "layers_to_transform", "layers_pattern", "exclude_modules")  # fmt: skip


def write(adapter: Adapter, draft: Path, ask: Ask) -> Wrote:
    """Write config and weights; tensors whose scale and rank are the common ones stay as they are.

    Raises Unsupported where a rank is asked for that is too small, or a dtype that overflows.
    """
    rank = max(adapter.rank, ask.rank or 0)
    scale = _scale(adapter, rank, ask)
    shape = shape_for(adapter, ask, scale=scale, uniform=True)
    wrote = Wrote(files=[CONFIG, WEIGHTS], tensors=0, nbytes=0)
    items = (pair for module in modules(adapter, shape, wrote) for pair in named(module))
    wrote.tensors, wrote.nbytes = save(draft / WEIGHTS, items)
    text = config_text(config(adapter, rank, int(scale * rank)))
    (draft / CONFIG).write_text(text, "utf-8")
    return wrote


def _scale(adapter: Adapter, rank: int, ask: Ask) -> float:
    """Choose the scale of all, which is 1 where the user asks for it."""
    if not ask.options:
        return common_scale(adapter, rank)
    if dict(ask.options) != {"scale": "1"}:
        name, value = next((n, v) for n, v in ask.options.items() if (n, v) != ("scale", "1"))
        raise Unsupported(f"plain has no option {shown(name)}={shown(value)}. Known: scale=1.")
    return 1.0


def named(module: Module) -> Iterator[tuple[str, Array]]:
    """Give a module's factors under PEFT's names."""
    start = "lora_embedding_" if module.embedding else "lora_"
    yield key(module.target, f"{start}A", nested=module.nested), module.down
    yield key(module.target, f"{start}B", nested=module.nested), module.up


def config(adapter: Adapter, rank: int, alpha: int) -> dict[str, Any]:
    """Give the config that says only what every reader knows."""
    own = adapter.config
    listed = own.get("target_modules")
    return {k: own[k] for k in _KEPT if own.get(k) is not None} | {
        "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "rank_pattern": {},
        "alpha_pattern": {}, "bias": "none", "modules_to_save": None, "inference_mode": True,
        "init_lora_weights": True, "lora_dropout": 0.0, "use_rslora": False, "use_dora": False,
        "target_modules": listed if _names(listed) else sorted(e.target for e in adapter.entries),
    }  # fmt: skip


def _names(listed: object) -> bool:
    """Tell a list of names, which every reader understands, from an expression."""
    return isinstance(listed, list) and bool(listed) and all(isinstance(n, str) for n in listed)
