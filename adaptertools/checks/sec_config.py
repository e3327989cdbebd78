"""Does a JSON file make the loader import, run or fetch something?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adaptertools import jsontext
from adaptertools.checks import check
from adaptertools.checks._peft import Config, inside, spoken
from adaptertools.errors import shown
from adaptertools.facts import File, Found, Result, Text

# peft/auto.py, get_default_import_allowlist, since 0.20.0
_IMPORTED = ("diffusers", "lerobot", "megatron-core", "transformers")
# Fields that name a file, a repository or an adapter, and the values that name none.
_FETCHED: Mapping[str, tuple[object, ...]] = {
    "shadow_model": (None, "mirror"), "prompt_tuning_init_state_dict_path": (None,),
    "adapters": (None, {}), "arrow_config": (None, {}),
}  # fmt: skip
_INSIDE = ("cache_file", "covariance_file")  # of corda_config, lora_ga_config and their kin
MODEL = "config.json"


@check(
    "SEC003", "auto_mapping imports from a known library",
    fix="Set auto_mapping to null and name the task in task_type.",
)  # fmt: skip
def imported(config: Config) -> Result:
    """AutoPeftModel imports the module that auto_mapping names, and so runs it.

    Any module on the path will do, such as a file that came with the adapter. Since PEFT 0.20.0
    only diffusers, lerobot, megatron-core and transformers are let through; before, everything.
    https://github.com/huggingface/peft/issues/3085
    """
    mapping = config.get("auto_mapping")
    if mapping is None:
        return
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if not isinstance(library, str):
        text = "auto_mapping names no parent_library, which AutoPeftModel asks for"
        yield Found(text=text, pointer="/auto_mapping", level="warning")
    elif not any(f"{library}.".startswith(f"{known}.") for known in _IMPORTED):
        text = f"auto_mapping would import {shown(library)}, which is none of {_spelled()}"
        yield Found(text=text, pointer="/auto_mapping/parent_library")


def _spelled() -> str:
    return ", ".join(_IMPORTED)


@check("SEC004", "megatron_core is megatron's", fix="Set megatron_config to null.")
def megatron(config: Config) -> Result:
    """Where megatron_config is set, PEFT imports the module that megatron_core names, and runs it.

    Since PEFT 0.20.0 its name must begin with "megatron."; before, it could be any. transformers
    gets there too when it loads an adapter. https://github.com/huggingface/peft/pull/3090
    """
    module = config.get("megatron_core")
    if module is None or (isinstance(module, str) and module.startswith("megatron.")):
        return
    used = bool(config.get("megatron_config"))
    text = f"megatron_core is {spoken(module)}, " + (
        "which would be imported" if used else "which would be imported with a megatron_config"
    )
    yield Found(text=text, pointer="/megatron_core", level="error" if used else "warning")


@check("SEC005", "no file turns remote code on", fix="Delete the key.")
def remote_code(text: Text, files: Mapping[str, File]) -> Result:
    """trust_remote_code lets the loader download Python and run it; it is the user's to allow.

    From PEFT 0.7.0 to 0.17.1 tokenizer_kwargs of a prompt tuning config were passed on as they
    are. In transformers 4.56 to 5.2 `_attn_implementation_internal` of a config.json did the same
    (CVE-2026-4372), so a config.json beside the adapter is read too. A kernel named as a
    repository (`attn_implementation: user/repo`) is fetched from the Hub and run in the same way.
    """
    for pointer, key, value in _members(text.value):
        if _opens(key, value) or key == "auto_map":
            yield Found(text=f"{shown(key)} is {spoken(value)}", pointer=pointer)
    for name in (MODEL, "tokenizer_config.json", "processor_config.json"):
        if name in files:
            read = jsontext.read(files[name].read())
            for pointer, key, value in _members(read.value):
                if _opens(key, value):
                    line, column = read.at(pointer)
                    words = f"{name}: {shown(key)} is {spoken(value)}"
                    yield Found(text=words, file=name, pointer=pointer, line=line, column=column)


def _opens(key: str, value: object) -> bool:
    if key.endswith("_implementation"):  # of attention or experts: eager, sdpa … or a repository
        return any("/" in str(v) for v in (value.values() if isinstance(value, dict) else [value]))
    return bool(value) and (key == "trust_remote_code" or key.endswith("_internal"))


@check(
    "SEC006", "the config makes the loader fetch nothing else", level="warning",
    fix="Set the field to null: training needed it, the adapter does not.",
)  # fmt: skip
def fetched(config: Config) -> Result:
    """Some fields name a file or a repository that is loaded along with the adapter.

    What comes from there was not looked at, can change, and was a pickle more than once:
    prompt_tuning_init_state_dict_path, cache_file of corda_config and lora_ga_config.
    """
    for field, harmless in _FETCHED.items():
        if field in config and config[field] not in harmless:
            text = f"{field} is {spoken(config[field])}, which is loaded along"
            yield Found(text=text, pointer=f"/{field}")
    own, base = config.get("tokenizer_name_or_path"), config.get("base_model_name_or_path")
    if own is not None and own != base:
        text = f"the tokenizer is taken from {spoken(own)}, the base is {spoken(base)}"
        yield Found(text=text, pointer="/tokenizer_name_or_path")
    for pointer, key, value in _members(config):
        if key in _INSIDE and value is not None:
            yield Found(text=f"{key} is {spoken(value)}, which is loaded along", pointer=pointer)


def _members(value: object) -> Iterator[tuple[str, str, Any]]:
    """Give every member of every object: where, its name, its value."""
    todo: list[tuple[str, object]] = [("", value)]
    while todo:
        pointer, held = todo.pop()
        if isinstance(held, dict):
            for key, item in held.items():
                yield inside(pointer, key), key, item
                todo.append((inside(pointer, key), item))
        elif isinstance(held, list):
            todo += ((inside(pointer, i), item) for i, item in enumerate(held))
