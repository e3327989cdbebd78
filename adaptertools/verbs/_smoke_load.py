"""Loading models for smoke: from local files, quantised as asked, with adapters beside them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptertools.errors import Mismatch, Unreadable, Unsupported, first, shown
from adaptertools.verbs._smoke_kind import Kind
from adaptertools.verbs._smoke_model import Beside, Model
from adaptertools.verbs._smoke_quiet import explained, need

QUANTS = ("keep", "none", "4bit", "nf4", "fp4", "8bit", "int8")


def packing(
    quant: str, dtype: str, like: Mapping[str, Any], whole: Collection[str]
) -> dict[str, Any]:
    """Give the bitsandbytes config to quantise a 16-bit model with; empty to leave it as it is.

    `like` is that of the model it is held against: `keep` does as that one, module by module.
    `whole` are modules that stay as they are; a list of them takes the place of the defaults.
    """
    said: dict[str, Any] = {"quant_method": "bitsandbytes"}
    said |= {"llm_int8_skip_modules": sorted({"lm_head", *whole})} if whole else {}
    if quant == "keep":
        return dict(like) if like.get("quant_method") == "bitsandbytes" else {}
    if quant in ("8bit", "int8"):
        return {**said, "load_in_8bit": True}
    if quant in ("4bit", "nf4", "fp4"):
        kind = "fp4" if quant == "fp4" else "nf4"
        return {**said, "load_in_4bit": True, "bnb_4bit_quant_type": kind,
                "bnb_4bit_compute_dtype": dtype}  # fmt: skip
    return {}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model that is ready to be asked."""

    model: Any
    how: str  # its dtype and quantisation, for people
    dtype: str
    quantised: bool
    missing: tuple[str, ...]  # weights that its files lack: they are random
    unread: tuple[str, ...]  # adapters that transformers' load_adapter alone reads in part


def load(
    model: Model, kind: Kind, place: str, pack: Mapping[str, Any], *,
    adapters: Sequence[Beside] = (), labels: int | None = None, vocabulary: int | None = None,
    generic: bool = False,
) -> Loaded:  # fmt: skip
    """Load a model, quantised by `pack` unless it is on disk, with adapters beside it.

    The adapters are named adapter1, adapter2 … `generic` keeps bitsandbytes from repacking 4-bit
    weights for the processor. Raises Unreadable, Mismatch or Unsupported.
    """
    stored = bool(model.packing)
    pack = {} if stored else pack
    if (pack or model.packing).get("quant_method") == "bitsandbytes":
        need("bitsandbytes", "accelerate", extra="quant")
    options = {"num_labels": labels} if labels and kind.gives == "labels" else {}
    with explained("loaded by transformers", model.ref):
        made, info = _pretrained(model, kind, place, pack, options)
        if vocabulary and vocabulary != made.get_input_embeddings().num_embeddings:
            made.resize_token_embeddings(vocabulary, mean_resizing=False)
    _check_layers(made, model.ref, place, generic)
    unread = tuple(
        adapter.ref for number, adapter in enumerate(adapters, 1)
        if not _attach(made, adapter, f"adapter{number}", place)
    )  # fmt: skip
    dtype = str(made.dtype).removeprefix("torch.")
    return Loaded(
        model=made.eval(), how=_how(dtype, pack, model.packing, generic), dtype=dtype,
        quantised=bool(pack or stored), unread=unread,
        missing=tuple(sorted(map(str, info["missing_keys"]))),
    )  # fmt: skip


def _pretrained(
    model: Model, kind: Kind, place: str, pack: Mapping[str, Any], options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    import transformers

    if pack:
        options["quantization_config"] = transformers.BitsAndBytesConfig.from_dict(dict(pack))
    if pack or model.packing or place != "cpu":
        options["device_map"] = {"": 0 if place == "cuda" else place}
    made, info = getattr(transformers, kind.auto).from_pretrained(
        model.folder, dtype="auto", local_files_only=True, use_safetensors=True,
        trust_remote_code=False, output_loading_info=True, **options,
    )  # fmt: skip
    return made, info


def _how(
    dtype: str, pack: Mapping[str, Any], stored: Mapping[str, Any], generic: bool
) -> str:  # fmt: skip
    named = pack or stored
    if not named:
        return dtype
    if named.get("quant_method") != "bitsandbytes":
        return f"{shown(named.get('quant_method'))} as stored, {dtype}"
    name = "int8" if named.get("load_in_8bit") else named.get("bnb_4bit_quant_type") or "4-bit"
    made = "made at load" if pack else "as stored"
    plain = ", generic kernels" if generic and name != "int8" else ""
    return f"{shown(name)} {made}, {dtype}{plain}"


def _check_layers(model: Any, ref: str, place: str, generic: bool) -> None:
    """Refuse 4-bit layers that were damaged in saving, or that this processor cannot run."""
    layers = {n: m for n, m in model.named_modules() if type(m).__name__ == "Linear4bit"}
    states = {n: getattr(m.weight, "quant_state", None) for n, m in layers.items()}
    damaged = [n for n, state in states.items() if state is not None and state.absmax.dim() != 1]
    if damaged:
        raise Unreadable(
            f"{shown(ref)}: the 4-bit scales of {first(damaged, 1)} are not one list but a matrix. "
            "It was saved after bitsandbytes had repacked it for this kind of processor, and its "
            "weights are wrong. Make it again."
        )
    for layer in layers.values() if generic else ():
        layer.support_avx512bf16_for_cpu = False
    ragged = [
        name for name, layer in layers.items()
        if layer.out_features % 32 or layer.in_features % getattr(states[name], "blocksize", 64)
    ]  # fmt: skip
    if ragged and place == "cpu" and getattr(
        layers[ragged[0]], "support_avx512bf16_for_cpu", False
    ):  # fmt: skip
        shape = f"{layers[ragged[0]].in_features} to {layers[ragged[0]].out_features}"
        raise Unsupported(
            f"{shown(ref)}: bitsandbytes cannot run {first(ragged, 1)} ({shape}) in 4 bit on a "
            "processor with AVX512-BF16: it wants inputs in whole blocks and outputs in 32s. "
            "Use --quant 8bit, --device cuda, or another processor."
        )


def _attach(model: Any, adapter: Beside, name: str, place: str) -> bool:
    """Load an adapter beside the base; tell whether transformers alone read all of it.

    Raises Unsupported or Mismatch for what PEFT would not run as it was trained.
    """
    layers = {type(module).__name__ for module in model.modules()}
    if adapter.config.get("use_dora") and place == "cpu" and "Linear8bitLt" in layers:
        raise Unsupported(
            f"{shown(adapter.ref)} is a DoRA, and PEFT cannot run one beside an 8-bit base on the "
            "CPU. Use --quant none or 4bit, or --device cuda."
        )
    with explained("loaded beside its base by transformers and PEFT", adapter.ref):
        info = model.load_adapter(str(adapter.folder), adapter_name=name)
    unread = _unread(info, name)
    if unread and (lost := _completed(model, adapter, name)):
        raise Mismatch(
            f"{shown(adapter.ref)} does not fit the base: {first(lost, 3)} found no partner. "
            "Pass the base that it was trained on as --base."
        )
    return not unread


def _completed(model: Any, adapter: Beside, name: str) -> list[str]:
    """Load with PEFT what transformers 5 leaves out, such as DoRA's magnitudes; give the rest."""
    from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict

    with explained("loaded beside its base by PEFT", adapter.ref):
        found = load_peft_weights(str(adapter.folder), device=str(model.device))
        state = {key.removeprefix("base_model.model."): value for key, value in found.items()}
        left = set_peft_model_state_dict(model, state, adapter_name=name)
    return sorted(_unread(left, name))


def _unread(info: Any, name: str) -> set[str]:
    """Give what was not loaded of an adapter.

    Parts of other adapters are missing as they should be, and PEFT writes some parts twice.
    """
    missing = {key for key in map(str, info.missing_keys) if name in key.split(".")}
    twice = {"modules_to_save", "original_module"}
    return missing | {k for k in map(str, info.unexpected_keys) if twice.isdisjoint(k.split("."))}
