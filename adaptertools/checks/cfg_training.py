"""Is the config one to publish, or is it still one to train with?"""

from __future__ import annotations

from collections.abc import Iterator

from adaptertools.checks import _peft as peft
from adaptertools.checks import check
from adaptertools.checks._peft import Config, inside, spoken
from adaptertools.errors import shown
from adaptertools.facts import Found, Result

# What changes the base weights before training; lora_ga is LoRA-GA.
_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


@check(
    "CFG014", "it was saved to be published", level="warning",
    fix="Set inference_mode to true and the paths to null, or save again with save_pretrained.",
)  # fmt: skip
def published(config: Config) -> Result:
    """save_pretrained sets inference_mode; a config without it was not saved with its weights.

    Caches of an initialisation (CorDA, EVA, LoRA-GA) are paths on the machine of the training.
    They tell its owner's name and directories, and torch.load reads some of them where they exist.
    """
    if config.get("inference_mode") is False:
        yield Found(text="inference_mode is false", pointer="/inference_mode")
    for pointer, value in _paths(config):
        text = f"{shown(pointer[1:])} is {spoken(value)}, a file of the training"
        yield Found(text=text, pointer=pointer)


def _paths(config: Config) -> Iterator[tuple[str, str]]:
    for key, inner in config.items():
        if key.endswith("_config") and isinstance(inner, dict):
            for name, value in inner.items():
                if isinstance(value, str) and value and name.endswith(("_file", "_path", "_dir")):
                    yield inside(f"/{key}", name), value


@check(
    "CFG015", "the base is the one that it was trained on", level="warning",
    fix="Convert on saving: save_pretrained(…, path_initial_model_for_weight_conversion=…).",
)  # fmt: skip
def base_unchanged(config: Config) -> Result:
    """PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA take something out of the base before training.

    The adapter then belongs to the base that is left over, and on the plain one its result is
    wrong. PEFT can subtract the beginning when saving; it then writes init_lora_weights: true and
    twice the rank.
    """
    value = peft.said(config, "init_lora_weights")
    if isinstance(value, str) and value.lower().startswith(_CHANGING):
        text = f"init_lora_weights is {spoken(value)}, which changed the base before training"
        yield Found(text=text, pointer="/init_lora_weights")
