"""Write adaptertools/layouts/linears.json: which modules of a model are nn.Linear or Conv1D.

Run ``python -m tests.layouts.generate_linears`` with the transformers version to record, after
generate_models (some six minutes on one core). What is left out of the table is listed on stderr.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from difflib import SequenceMatcher
from typing import Any

import transformers
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.auto import modeling_auto as auto
from transformers.quantizers.base import (
    MODULES_TO_PATCH_FOR_QUANTIZATION,
    get_keys_to_not_convert,
)
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationMethod

from . import generate_models as models
from .built import Facts, build, first, look, template, variants

TABLE = models.TABLE.with_name("linears.json")
HEADS = models.HEADS | {
    "IMAGE_TEXT_TO_TEXT": auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    "SPEECH_SEQ_2_SEQ": auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    "IMAGE_CLS": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
}


def heads(model_type: str) -> dict[str, str]:
    """Name the classes of a model type, by task."""
    found = {task: mapping.get(model_type) for task, mapping in HEADS.items()}
    names = {t: n[0] if isinstance(n, (list, tuple)) else n for t, n in found.items()}
    return {task: name for task, name in names.items() if name}


def base(model_type: str) -> str:
    """Name the base model class of a model type, or the class that is nearest to one."""
    return next(iter(heads(model_type).values()), "")


def parts(model: Any) -> dict[str, tuple[str, str]]:
    """Find the base models inside a model: path -> the nested config's name and model type."""
    found: dict[str, tuple[str, str]] = {}
    for path, module in model.named_modules():
        if not (path and isinstance(module, transformers.PreTrainedModel)):
            continue
        kind = str(module.config.model_type)
        names = [n for n, value in vars(model.config).items() if value is module.config]
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if (
            names
            and not inside
            and base(kind) == type(module).__name__
            and variants(kind, base(kind))["linear"]
        ):
            found[path] = (names[0], kind)
    return found


def saved(model: Any, names: list[str]) -> dict[str, str]:
    """Name parameters as checkpoints do: theirs -> the model's, empty where it is not the same.

    Nothing where these parameters are not enough to say so.
    """
    given = {name: model.get_parameter(name).detach() for name in names}  # ties undone
    own = {id(value): name for name, value in given.items()}
    try:
        found = revert_weight_conversion(model, given)
    except Exception:
        return {}
    return {theirs: own.get(id(value), "") for theirs, value in found.items()}


def each(model: Any, names: list[str]) -> dict[str, str]:
    """Name parameters as checkpoints do, as far as each alone is enough to say so."""
    return {key: value for name in names for key, value in saved(model, [name]).items()}


def renames(model: Any) -> tuple[set[tuple[str, str]], set[str]]:
    """Give what checkpoints call otherwise: modules (theirs, the model's), and fused experts."""
    pairs: set[tuple[str, str]] = set()
    stored: set[str] = set()
    every = get_model_conversion_mapping(model, add_legacy=False)
    seen = look(model)
    every_module = sorted(seen["linear"] | seen["conv1d"] | seen["other"])
    one = {re.sub(r"\.\d+\.", ".N.", name, count=1): name for name in every_module}
    weights = [f"{name}.weight" for name in one.values()]
    own = {n for n, _ in model.named_parameters()}
    experts = list({template(n): n for n in sorted(seen["experts"])}.values())
    seen_experts = {template(name) for name in experts}
    experts = [name if name in own else f"{name}.weight" for name in experts]
    for conversions in (None, every) if every else ():  # the first without prefixes put on or off
        model._weight_conversions = conversions
        for theirs, ours in (saved(model, weights) or each(model, weights)).items():
            if ours and ours != theirs:
                pairs.add(core(theirs.removesuffix(".weight"), ours.removesuffix(".weight")))
        for theirs in each(model, experts) | saved(model, experts):
            stored |= {template(theirs).removesuffix(".weight")} - seen_experts
    model._weight_conversions = None
    return pairs, stored


def core(theirs: str, ours: str) -> tuple[str, str]:
    """Take off what two names begin and end with, and write N for the indices that both have."""
    a, b = theirs.split("."), ours.split(".")
    at = [[i for i, part in enumerate(parts) if part.isdigit()] for parts in (a, b)]
    indices = [[parts[i] for i in where] for parts, where in zip((a, b), at, strict=True)]
    for i, j, size in SequenceMatcher(None, *indices).get_matching_blocks():
        for k in range(size):
            a[at[0][i + k]] = b[at[1][j + k]] = "N"
    while len(a) > 1 and len(b) > 1 and a[-1] == b[-1]:
        del a[-1], b[-1]
    while len(a) > 1 and len(b) > 1 and a[0] == b[0] and not re.match(r"(N|\d+)$", a[1]):
        del a[0], b[0]
    return ".".join(a), ".".join(b)


def skipped(model: Any) -> set[str]:
    """Give the default skip list, as far as it hits linear modules."""
    seen = look(model)
    weights = seen["linear"] | seen["conv1d"]
    keys = [key for key in get_keys_to_not_convert(model) if not key.endswith(".bias")]
    hit = [key for key in keys if any(not should_convert_module(n, [key]) for n in weights)]
    return {template(key) for key in hit}


def is_unpacked(module: Any) -> bool:
    """Tell whether the loader of a packed checkpoint puts other modules in a module's place."""
    methods = MODULES_TO_PATCH_FOR_QUANTIZATION.get(type(module).__name__, {})
    return QuantizationMethod.BITS_AND_BYTES in methods.get("quantization_methods", ())


def unused(cls: Any) -> list[str]:
    """Give the patterns of whole layers that checkpoints have and a model class has not."""
    patterns = getattr(cls, "_keys_to_ignore_on_load_unexpected", None) or ()
    return [pattern for pattern in patterns if re.search(r"layers\W+\d", pattern)]


def grouped(names: set[str]) -> dict[str, str]:
    """Write names by their parent, for fewer bytes."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        parent, _, leaf = name.rpartition(".")
        found[parent].append(leaf)
    return {parent: " ".join(leaves) for parent, leaves in found.items()}


def _names(found: Facts) -> set[str]:
    return {name for names in found.values() for name in names}


def without(found: Facts, at: str, taken: Facts) -> Facts:
    """Leave out what the base model has, which lies at a path."""
    return {key: names - {f"{at}{n}" for n in taken.get(key, ())} for key, names in found.items()}


def lean(pairs: set[tuple[str, str]], prefix: str) -> list[tuple[str, str]]:
    """Leave out the renames that are the base model's prefix put on or taken off."""
    return sorted(
        (theirs, ours)
        for theirs, ours in pairs
        if theirs.removeprefix(prefix) != ours.removeprefix(prefix)
        and not (ours.startswith(prefix) and (theirs, ours.removeprefix(prefix)) in pairs)
    )


def class_facts(model_type: str, name: str) -> dict[str, Any]:
    """Return what a class has outside its base model, and its default skip list."""
    small, model = first(model_type, name) or ({}, None)
    found, inside = variants(model_type, name), variants(model_type, base(model_type))
    prefixes = dict.fromkeys(("", *(f"{p}." for p in (type(model).base_model_prefix,) if p)))
    at = max(prefixes, key=lambda p: len(_names(found) & {p + n for n in _names(inside)}))
    entry = {key: grouped(names) for key, names in without(found, at, inside).items() if names}
    if at.removesuffix(".") != models.family_prefix(type(model)):
        entry["at"] = at.removesuffix(".")
    ties = (build(type(model), small, tie_word_embeddings=tie) for tie in (True, False))
    skip = {key for one in ties for key in skipped(one)}
    return entry | ({"skip": sorted(skip)} if skip else {})


def type_facts(model_type: str) -> dict[str, Any]:
    """Return the line of a model type; empty where no class of it could be built."""
    found = dict(variants(model_type, base(model_type)))
    classes, pairs, stored, kept, ignored = {}, set(), set(), set(), set()
    entry: dict[str, Any] = {}
    prefix = ""
    for name in dict.fromkeys(heads(model_type).values()):
        _, model = first(model_type, name) or ({}, None)
        if model is None:
            continue
        prefix = f"{models.family_prefix(type(model))}."
        more_pairs, more_stored = renames(model)
        pairs, stored = pairs | more_pairs, stored | {n.removeprefix(prefix) for n in more_stored}
        kept |= set(model._keep_in_fp32_modules)
        if any(is_unpacked(part) for part in model.modules()):
            entry["unpacked"] = True
        ignored |= {key for part in model.modules() for key in unused(type(part))}
        classes[name] = class_facts(model_type, name)
        if name == base(model_type):
            inner = parts(model)
            for path in inner:
                found = {
                    k: {n for n in v if not n.startswith(f"{path}.")} for k, v in found.items()
                }
            entry |= {"parts": inner} if inner else {}
    if not classes:
        return {}
    found["experts"] = found["experts"] | stored
    entry |= {key: grouped(names) for key, names in found.items() if names}
    lists = {"renames": lean(pairs, prefix), "fp32": sorted(kept), "ignored": sorted(ignored)}
    return entry | {key: value for key, value in lists.items() if value} | {"classes": classes}


def facts(only: frozenset[str] | None = None) -> dict[str, Any]:
    """Return the table for all model types of models.json, or for some."""
    known = json.loads(models.TABLE.read_text("utf-8"))["models"]
    lines = {kind: type_facts(kind) for kind in sorted(known) if only is None or kind in only}
    return {
        "transformers": transformers.__version__,
        "models": {kind: line for kind, line in lines.items() if line},
    }


def main() -> None:
    """Write the table."""
    transformers.utils.logging.set_verbosity_error()
    TABLE.write_text(models.render(facts()), encoding="utf-8")


if __name__ == "__main__":
    main()
