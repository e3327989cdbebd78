"""BAS: whether the adapter fits the base that was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptertools.checks import _names, check
from adaptertools.errors import first, shown
from adaptertools.facts import Base, Found, Result, Weights
from adaptertools.tensorfile import TensorSpec

Config = Mapping[str, Any]
_EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "word_embeddings", "shared", "embed_in",
               "embed_out")  # fmt: skip


def _text(base: Base) -> Config:
    """Give the part of the config that describes the text model."""
    nested = base.config.get("text_config")
    return nested if isinstance(nested, dict) else base.config


def _depth(base: Base) -> int | None:
    for key in ("num_hidden_layers", "n_layer", "num_layers", "n_layers"):
        value = _text(base).get(key)
        if type(value) is int:
            return value
    return None


@check("BAS007", "every adapted module is in the base", fix="Pass the base it was trained on.")
def fits(config: Config, weights: Weights, base: Base) -> Result:
    """PEFT adapts what it finds by name: a deeper or shallower base loads without a word.

    Sizes are held against the base's headers where it has weights; layers against its config.
    """
    if config.get("peft_type") != "LORA":
        return
    modules = _names.modules(weights.tensors)
    depth, numbers = _depth(base), {m: _names.layer(m) for m in modules}
    if depth is not None:
        beyond = [m for m, n in numbers.items() if n is not None and n >= depth]
        if beyond:
            yield Found(
                text=f"{len(beyond)} modules lie in layers that {shown(base.ref)} does not have "
                f"(it has {depth}): {first(beyond, 2)}.",
                file=weights.file,
            )
        top = max((n for n in numbers.values() if n is not None), default=-1)
        if 0 <= top < depth - 1 and config.get("layers_to_transform") is None:
            yield Found(
                text=f"The last adapted layer is {top}, the base has {depth}.", level="warning",
                file=weights.file,
            )  # fmt: skip
    if base.tensors is not None and not config.get("target_parameters"):
        yield from _sizes(modules, base.tensors, weights.file)


def _sizes(
    modules: Mapping[str, Mapping[str, TensorSpec]], tensors: Mapping[str, TensorSpec], file: str
) -> Result:
    ends: dict[str, TensorSpec] = {}
    for name, spec in tensors.items():
        ends[name.removesuffix(".weight")] = spec
    lost = []
    for module, parts in modules.items():
        name = next((n for n in _spellings(module) if n in ends), None)
        if name is None:
            lost.append(module)
        elif fault := _fault(parts, ends[name]):
            yield Found(text=f"{shown(module)}: {fault}", file=file)
    if lost:
        yield Found(
            text=f"{len(lost)} adapted modules are not in the base: {first(lost, 3)}.", file=file
        )


def _spellings(module: str) -> list[str]:
    """Give a module's names with a base-model prefix taken off or put on."""
    rest = module.partition(".")[2]
    return [module, rest, *(f"{p}.{module}" for p in ("model", "transformer", "base_model"))]


def _fault(parts: Mapping[str, TensorSpec], weight: TensorSpec) -> str:
    a, b = parts.get("lora_A"), parts.get("lora_B")
    if not (a and b and len(a.shape) == len(b.shape) == len(weight.shape) == 2):
        return ""
    wide = (b.shape[0], a.shape[1])
    # GPT-2's Conv1D stores (in, out); packed codes have shapes of their own.
    if weight.dtype in ("U8", "I8") or weight.shape in (wide, wide[::-1]):
        return ""
    return f"the update is {list(wide)}, the base's weight {list(weight.shape)}."


@check("BAS008", "the vocabulary fits", fix="Pass the base with the vocabulary of the training.")
def vocabulary(weights: Weights, base: Base) -> Result:
    """Embeddings of another vocabulary stop PEFT with a size mismatch."""
    size = _text(base).get("vocab_size")
    if type(size) is not int:
        return
    for name, module in _names.saved(weights.tensors).items():
        spec = weights.tensors[name]
        embeds = module.removesuffix(".weight").rpartition(".")[2] in _EMBEDDINGS
        if embeds and len(spec.shape) == 2 and spec.shape[0] != size:
            yield Found(
                text=f"{shown(name)} has {spec.shape[0]} rows, the base's vocabulary {size}.",
                file=weights.file, tensor=name,
                level="warning" if spec.shape[0] > size else "",
            )  # fmt: skip
    for module, parts in _names.modules(weights.tensors).items():
        a = parts.get("lora_embedding_A")
        if a and len(a.shape) == 2 and a.shape[1] != size:
            yield Found(
                text=f"{shown(module)} adapts {a.shape[1]} rows, the base's vocabulary has {size}.",
                file=weights.file, tensor=a.name,
            )  # fmt: skip


@check("BAS009", "tied embeddings are saved together", level="warning",
       fix="Save both, or set ensure_weight_tying.")  # fmt: skip
def tied(config: Config, weights: Weights, base: Base) -> Result:
    """Where input and output embeddings are one tensor, training one alone unties them.

    PEFT's merge then changes both, and the merged model is another one.
    """
    if not (base.config.get("tie_word_embeddings") or _text(base).get("tie_word_embeddings")):
        return
    if config.get("ensure_weight_tying"):
        return
    names = [*_names.saved(weights.tensors).values(), *_names.modules(weights.tensors)]
    leaves = {n.removesuffix(".weight").rpartition(".")[2] for n in names}
    inner, outer = leaves & {"embed_tokens", "wte", "shared"}, leaves & {"lm_head", "embed_out"}
    if bool(inner) != bool(outer):
        yield Found(
            text=f"{first(sorted(inner | outer))} is changed alone, and the base ties its "
            "embeddings.",
            file=weights.file,
        )


@check("BAS010", "the task fits the base", level="warning", fix="Correct task_type, or save heads.")
def task(config: Config, weights: Weights, base: Base) -> Result:
    """A classifier without its head starts from a random one; a task of another kind misleads."""
    kind = config.get("task_type")
    decoder = bool(base.config.get("is_encoder_decoder"))
    if (kind == "CAUSAL_LM" and decoder) or (kind == "SEQ_2_SEQ_LM" and not decoder):
        yield Found(
            text=f"task_type is {kind}, and the base is {'an' if decoder else 'no'} "
            "encoder-decoder.",
            pointer="/task_type",
        )
    heads = ("classifier", "score", "qa_outputs", "head")
    names = [t.removesuffix(".weight") for t in _names.saved(weights.tensors).values()]
    saved = any(f".{h}." in f".{n}." for n in names for h in heads)
    classes = " ".join(str(a) for a in base.config.get("architectures") or ())
    if kind in ("SEQ_CLS", "TOKEN_CLS") and not saved and "Classification" not in classes:
        yield Found(text=f"task_type is {kind}, and no head is saved.", pointer="/task_type")
