"""What config.json must say of the merged model: its class, labels, vocabulary, depth and dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adaptertools.adapter import Adapter
from adaptertools.errors import Mismatch, Unsupported, first, shown
from adaptertools.layouts import known
from adaptertools.tensorfile import TensorSpec

# What transformers calls the input and output embeddings.
_EMBEDDINGS = frozenset(
    [
        "embed_tokens",
        "wte",
        "word_embeddings",
        "embed_in",
        "shared",
        "tok_embeddings",
        "lm_head",
        "embed_out",
        "output_projection",
        "tokens_embed",
    ]
)
_LANGUAGE = frozenset({"CAUSAL_LM", "SEQ_2_SEQ_LM"})
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def architecture(
    config: Mapping[str, Any], adapters: Sequence[Adapter], base: Sequence[str]
) -> str:
    """Name the class of the merged model: the base's, or the adapter's where it brings a new head.

    An adapter whose task or auto_mapping names a class with a head that the base lacks is part of
    that class, whether it saved the head or not: `check_head` refuses it where it did not.
    """
    now = next(iter(config.get("architectures") or ()), "")
    kind = known.model(str(config.get("model_type")))
    for adapter in adapters:
        task = str(adapter.config.get("task_type"))
        name = (adapter.config.get("auto_mapping") or {}).get("base_model_class") or kind.get(
            "heads", {}
        ).get(task)
        head = known.architecture(name).get("head", []) if name else []
        if head and name != now and not set(head) <= set(base):
            return str(name)
        # A base saved without its head: the adapter knows which model it is part of.
        if (
            task in _LANGUAGE
            and name
            and now == kind.get("heads", {}).get("FEATURE_EXTRACTION", "?")
        ):
            return str(name)
    return str(now) or str(kind.get("heads", {}).get("CAUSAL_LM", ""))


def new_tensors(name: str) -> frozenset[str]:
    """Give the tensors of a class that other classes lack: what an adapter may bring new."""
    facts = known.architecture(name)
    return frozenset(name for key in ("needs", "head", "tied") for name in facts.get(key, ()))


def check_head(
    name: str, have: Mapping[str, object], adapters: Sequence[Adapter], prefix: str
) -> None:
    """Refuse a new head of which a part is nowhere: it would be random in the merged model."""
    facts = known.architecture(name)
    every = (*facts.get("needs", ()), *facts.get("head", ()))
    missing = [t for t in every if not {t, t.removeprefix(f"{prefix}.")} & have.keys()]
    if missing:
        raise Mismatch(
            f"A {shown(name)} needs {first(missing)}, which neither the base nor "
            f"{first(a.ref for a in adapters)} has. It was random in training and was not saved, "
            "so the model cannot be put together again. Pass the base that training started from."
        )


def headed(
    config: Mapping[str, Any], name: str, tensors: Mapping[str, TensorSpec]
) -> dict[str, Any]:
    """Give the config with the class and as many labels as its head has rows."""
    head = [t for t in known.architecture(name).get("head", ()) if t in tensors]
    weights = [t for t in head if len(tensors[t].shape) == 2]
    changed = {**config, "architectures": [name]}
    if not weights:
        return changed
    count = tensors[weights[-1]].shape[0]
    if count != len(config.get("id2label") or {"0": 0, "1": 1}):
        changed["id2label"] = {str(i): f"LABEL_{i}" for i in range(count)}
        changed["label2id"] = {f"LABEL_{i}": i for i in range(count)}
        changed.pop("num_labels", None)
    return changed


def embedding(name: str) -> bool:
    """Tell whether a tensor is an input or output embedding, by its module's name."""
    return name.removesuffix(".weight").rpartition(".")[2] in _EMBEDDINGS


def resized(
    config: Mapping[str, Any], old: Mapping[str, TensorSpec], new: Mapping[str, TensorSpec]
) -> tuple[dict[str, Any], str]:
    """Give the config with the vocabulary of resized embeddings, and a sentence about it.

    `old` and `new` hold the embeddings of the base and of the output. Raises Mismatch where they
    would not agree with one another.
    """
    sizes = {name: spec.shape[0] for name, spec in new.items()}
    if all(old[n].shape[0] == size for n, size in sizes.items() if n in old):
        return dict(config), ""
    count = max(sizes.values())
    if odd := {n: s for n, s in sizes.items() if s != count}:
        name, size = next(iter(odd.items()))
        raise Mismatch(
            f"{shown(name)} has {size} rows, and another embedding has {count} after the merge. "
            "The adapter was trained on a resized vocabulary and does not hold all of it. "
            "Resize the base's embeddings as in training, save it, and pass that as --base."
        )
    before = next(old[n].shape[0] for n in sizes if n in old and old[n].shape[0] != count)
    changed = dict(config)
    holder = next(
        (k for k, v in config.items() if isinstance(v, dict) and "vocab_size" in v), None
    )  # fmt: skip
    if "vocab_size" in config or holder is None:
        changed["vocab_size"] = count
    if holder is not None:
        changed[holder] = {**config[holder], "vocab_size": count}
    return (
        changed,
        f"The vocabulary grew from {before} to {count} rows, as the adapter's embeddings.",
    )


def untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the config with tie_word_embeddings false, also where a nested config says so."""
    nested = {
        k: {**v, "tie_word_embeddings": False}
        for k, v in config.items()
        if isinstance(v, dict) and "tie_word_embeddings" in v
    }
    return {**config, **nested, "tie_word_embeddings": False}


def retyped(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Give the config with another dtype, under the key that it uses."""
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    nested = {
        k: {**v, key: _DTYPES[dtype]} for k, v in config.items() if isinstance(v, dict) and key in v
    }
    return {**config, **nested, key: _DTYPES[dtype]}


def dtype_code(name: str) -> str:
    """Give the header's code of a dtype as people spell it; raise Unsupported for others."""
    codes = {long: code for code, long in _DTYPES.items()} | {
        "fp32": "F32", "fp16": "F16", "bf16": "BF16", "fp64": "F64"
    }  # fmt: skip
    if name.lower() not in codes:
        raise Unsupported(
            f"--dtype {shown(name)} is unknown. Known: {', '.join(_DTYPES.values())}."
        )
    return codes[name.lower()]
