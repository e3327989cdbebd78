"""Packed bases: which weights are packed, and how each is to be packed in the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from adaptertools import plugins
from adaptertools.checkpoint import Checkpoint
from adaptertools.errors import Unreadable, Unsupported, first, shown
from adaptertools.layouts import known
from adaptertools.layouts.linears import Linears, linears
from adaptertools.packing import CODES, Packed, Repack, Writer
from adaptertools.quant import Quant, Writable, _refused
from adaptertools.tensorfile import FLOATS, TensorSpec
from adaptertools.verbs._drafts import Assembly, Draft
from adaptertools.verbs._quant_config import bnb_config

NAMES = {"4bit": "nf4", "8bit": "int8"}  # what people say, and the file in quant/
_ACTIVATIONS = ("input_scale", "activation_scale")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How the user wants weights to be packed."""

    quant: str = "keep"
    rounding: str | None = None
    double_quant: bool | None = None
    block_size: int | None = None
    seed: int = 0
    dtype: str | None = None  # code of --dtype

    @property
    def kind(self) -> str:
        """The packing's name."""
        return NAMES.get(self.quant, self.quant)

    def fits(self, codec: Any) -> bool:
        """Tell whether a packing that is there already is what is asked for."""
        asked = {"double_quant": self.double_quant, "block_size": self.block_size}
        same = all(v is None or getattr(codec, k, v) == v for k, v in asked.items())
        return self.quant == "keep" or (self.kind == codec.kind and same)


def recognise(base: Checkpoint) -> dict[str, Packed]:
    """Find the packed weights of a base, by the name of the tensor that holds their codes.

    Raises Unreadable where parts are missing or disagree, Unsupported for packings that are not
    handled.
    """
    config = base.config.get("quantization_config") or {}
    tensors = base.tensors
    _refused.refuse(config, tensors)
    found: dict[str, Packed] = {}
    method = _refused.method_of(config)
    for name in plugins.names("quant") if config else ():
        module = cast(Quant, plugins.load("quant", name))
        if method in module.methods:
            made = module.packed(config, tensors)
            found |= {p.parts[CODES].name: _typed(p, base.config) for p in made.values()}
    if config and not found:
        raise Unreadable(
            f"{shown(base.ref)}: config.json says {shown(method)}, and no "
            "weight is packed so. Remove quantization_config from it if the weights are plain."
        )
    return found


def _typed(packed: Packed, config: Mapping[str, Any]) -> Packed:
    """Give it the model's dtype; only the 4-bit packings store their own."""
    said = str(config.get("dtype") or config.get("torch_dtype"))
    code = next((code for code, name in FLOATS.items() if name == said), packed.dtype)
    return packed if packed.codec.kind in ("nf4", "fp4") else replace(packed, dtype=code)


def repack(
    it: Assembly, base: Checkpoint, packed: Mapping[str, Packed], wanted: Wanted,
    chosen: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Say for every weight how it is packed in the output, and bring config.json in line.

    `chosen` are the weights to pack, where something else than the base decides.

    Raises Unsupported where the base has no weight that the packing could take.
    """
    if wanted.quant == "keep":
        for name in packed:
            _keep(it.drafts[name], wanted)
    elif wanted.quant == "none":
        for name in packed:
            _unpack(it, name, packed[name])
        it.config.pop("quantization_config", None)
    else:
        _convert(it, base, packed, wanted, chosen)
    if wanted.rounding and not any(draft.repack for draft in it.drafts.values()):
        raise Unsupported(
            f"--rounding {wanted.rounding} is for packed weights, and none is packed in the "
            "output. Leave it out, or pass --quant 4bit or 8bit."
        )


def _keep(draft: Draft, wanted: Wanted) -> None:
    assert draft.packed is not None
    if wanted.rounding == "search":
        raise Unsupported(
            "--rounding search looks for scales, and those of a packed base are kept. Merge into "
            "the 16-bit parent (--base-weights original), or leave it out."
        )
    draft.repack = Repack(
        codec=draft.packed.codec, kept=True, rounding=wanted.rounding or "adapter",
        seed=wanted.seed,
    )  # fmt: skip


def _unpack(it: Assembly, name: str, packed: Packed) -> None:
    """Write a packed weight plainly, in the orientation of the model without the packing."""
    draft = it.drafts[name]
    draft.turned = bool(known.stores_in_out(name.removesuffix(".weight"), it.config))
    _drop_side(it, packed)
    if (
        packed.codec.kind == "mxfp4"
    ):  # [experts, out, in], and the 16-bit model's [experts, in, out]
        draft.stack()
        draft.turned, plain = True, name.removesuffix("_blocks")
        it.drafts = {plain if key == name else key: each for key, each in it.drafts.items()}


def _drop_side(it: Assembly, packed: Packed) -> None:
    """Leave out what only the packing needed: scales, and those of activations."""
    module = packed.parts[CODES].name.removesuffix(".weight")
    strays = [f"{module}.{name}" for name in _ACTIVATIONS]
    for name in [*strays, *(spec.name for r, spec in packed.parts.items() if r != CODES)]:
        it.drafts.pop(name, None)


def _convert(
    it: Assembly, base: Checkpoint, packed: Mapping[str, Packed], wanted: Wanted,
    chosen: Sequence[str] | None,
) -> None:  # fmt: skip
    """Pack with a writer: what bitsandbytes has packed in the base, else what it would."""
    was = base.config.get("quantization_config") or {}
    specs = _specs(it)
    found = linears(it.config, specs)
    bnb = bool(was) and _refused.method_of(was) == "bitsandbytes"
    if chosen is None:
        chosen = [*packed] if bnb else [n for n in found.convert if specs[n].dtype in FLOATS]
    if not chosen:
        raise Unsupported(
            f"--quant {wanted.quant}: {shown(base.ref)} has no linear weight that transformers "
            f"would load in {wanted.kind}. Leave --quant out."
        )
    writer = _writer(wanted)
    for name in chosen:
        draft = it.drafts[name]
        if draft.packed is not None and wanted.fits(draft.packed.codec):
            _keep(draft, wanted)
            continue
        if draft.packed is not None:
            _drop_side(it, draft.packed)
        else:
            draft.turned = name in found.transposed
        usual = "adapter" if draft.packed and writer.kind != "int8" else "nearest"
        how = wanted.rounding or usual
        if draft.turned and how == "adapter":
            how = "stochastic"  # what the adapter reads are its rows here, not its columns
        draft.repack = Repack(codec=writer, kept=False, rounding=how, seed=wanted.seed)
    for name in packed.keys() - set(chosen):
        _unpack(it, name, packed[name])
    # Every linear layer that stays in 16 bit must be listed, or the loader expects it packed.
    skip = [*(was.get("llm_int8_skip_modules") or found.leave)]
    skip += [n.removesuffix(".weight") for n in found.convert if n not in set(chosen)]
    it.config["quantization_config"] = bnb_config(
        wanted.kind, bool(getattr(writer, "double_quant", False)),
        wanted.dtype or it.drafts[chosen[0]].dtype, list(dict.fromkeys(skip)),
    )  # fmt: skip
    _say_left(it, found, writer, chosen)


def _specs(it: Assembly) -> dict[str, TensorSpec]:
    return {name: draft.source for name, draft in it.drafts.items()}


def _writer(wanted: Wanted) -> Writer:
    module = cast(Writable, plugins.load("quant", wanted.kind))
    block = 64 if wanted.block_size is None else wanted.block_size
    return module.writer(double_quant=bool(wanted.double_quant), block_size=block)


def _say_left(it: Assembly, found: Linears, writer: Writer, chosen: Sequence[str]) -> None:
    """Say loudly which large part stays in 16 bit, and what some CPUs cannot run."""
    sizes = {n: d.source.rows * d.source.columns for n, d in it.drafts.items()}
    if found.experts:
        share = sum(sizes[n] for n in found.experts if n in sizes) / max(sum(sizes.values()), 1)
        it.say(
            "MRG041",
            f"{len(found.experts)} tensors of fused experts stay in 16 bit, {share:.0%} of all "
            f"parameters: bitsandbytes in transformers packs linear layers only. First: "
            f"{first(found.experts, 2)}.",
            level="warning",
        )
    if not found.known:
        it.say(
            "MRG042",
            "The class of the base is not known, so its linear layers were told by name. What was "
            "doubtful stays in 16 bit and is listed in config.json.",
        )
    block = getattr(writer, "block_size", 0)
    ragged = [n for n in chosen if _ragged(it.drafts[n], block)] if block else []
    if ragged:
        it.say(
            "MRG043",
            f"{len(ragged)} weights have inputs that are no multiple of {max(block, 64)}, or "
            f"outputs of 32: {first(ragged, 3)}. bitsandbytes cannot run those in 4 bit on CPUs "
            "with AVX512-BF16.",
        )


def _ragged(draft: Draft, block: int) -> bool:
    rows, columns = draft.source.rows, draft.source.columns
    rows, columns = (columns, rows) if draft.turned else (rows, columns)
    return columns % max(block, 64) != 0 or rows % 32 != 0


def leave_plain(it: Assembly, names: Sequence[str]) -> None:
    """Write these weights in 16 bit after all, and list them where the loader looks."""
    config = it.config["quantization_config"]
    if (method := _refused.method_of(config)) != "bitsandbytes":
        raise Unsupported(
            f"--min-retention: {shown(method)} has no list of modules that "
            "stay in 16 bit. Leave the option out."
        )
    for name in names:
        draft = it.drafts[name]
        draft.repack = None
        if draft.packed is not None:
            _unpack(it, name, draft.packed)
        else:
            draft.turned = False
    skip = config.get("llm_int8_skip_modules") or linears(it.config, _specs(it)).leave
    more = [name.removesuffix(".weight") for name in names]
    it.config["quantization_config"] = {**config, "llm_int8_skip_modules": [*skip, *more]}
