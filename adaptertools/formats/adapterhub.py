"""AdapterHub's folder, as the `adapters` library saves it: config with a `config`, and weights.

LoRA, (IA)³, VeRA, DoRA and prefixes are read as PEFT's where the two are equal. Bottlenecks and
others that PEFT has not are read as they are, so that they can be looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from adaptertools import checkpoint, tensorfile
from adaptertools.adapter import Adapter, Saved
from adaptertools.errors import Mismatch, Unreadable, Unsupported, shown
from adaptertools.formats import _bin
from adaptertools.formats._adapterhub_kinds import Said, said
from adaptertools.formats._adapterhub_lora import ia3, lora, targets
from adaptertools.formats._adapterhub_prefix import prefix
from adaptertools.formats._adapterhub_write import write
from adaptertools.formats._normal import spooled
from adaptertools.tensorfile import TensorSpec, read_header

__all__ = ["HOLDS", "LACKS", "METHODS", "PROVED", "SUFFIX", "matches", "read", "write"]

HOLDS: frozenset[str] = frozenset()
METHODS = frozenset({"IA3"})
SUFFIX = ""
LACKS = "DoRA, biases of lora_B, embeddings, convolutions, saved modules, token rows"
PROVED = "adapters 1.3.0"
OPTIONS = {"name": "what the library calls the adapter; `default` where nothing is said"}

PICKLED, WEIGHTS, FUSION = (
    "pytorch_adapter.bin", "adapter.safetensors", "adapter_fusion_config.json",
)  # fmt: skip
_HEADS = ("pytorch_model_head.bin", "model_head.safetensors")


def matches(files: Collection[str]) -> bool:
    """Tell whether there are AdapterHub's weights, or what joins several of its adapters."""
    return bool({PICKLED, FUSION} & set(files)) or {WEIGHTS, "adapter_config.json"} <= set(files)


def read(path: Path, ref: str, base: Path | None = None) -> Adapter:
    """Read a folder without unpickling; what PEFT has too is made PEFT's in a temporary file.

    `base` is needed for DoRA (biases) and prefixes (positions), of which only config and headers
    are read. Raises Unreadable where config or weights are damaged, Unsupported for what differs
    from PEFT's, Mismatch where shapes fit neither one another nor the base.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / FUSION).is_file():
        raise Unsupported(
            f"{shown(folder)} is an AdapterFusion, which weighs adapters anew for each token. "
            "Convert one of its adapters."
        )
    held, tensors = said(folder), _tensors(folder)
    if held.kind == "PREFIX_TUNING":
        config, items = prefix(held, tensors, base)
    elif held.kind == "IA3":
        config, items = ia3(held, tensors)
    elif held.kind == "LORA":
        config, items = lora(held, tensors)
        if config["use_dora"]:
            _check_biases(held, tensors, base)
    else:
        return _as_it_is(held, tensors, folder, ref)
    made = spooled(config, items, folder, ref, "adapterhub")
    beside = {
        name: "a head for predictions; PEFT has heads of other kinds"
        for name in _HEADS
        if (folder / name).is_file()
    }
    return replace(made, ignored={**made.ignored, **beside})


def _tensors(folder: Path) -> Mapping[str, TensorSpec]:
    if (folder / WEIGHTS).is_file():
        return read_header(folder / WEIGHTS).tensors
    if (folder / PICKLED).is_file():
        return _bin.tensors(folder / PICKLED)
    raise Unreadable(f"{shown(folder)} has neither {WEIGHTS} nor {PICKLED}. Fetch it again.")


def _as_it_is(held: Said, tensors: Mapping[str, TensorSpec], folder: Path, ref: str) -> Adapter:
    """Give an adapter of a method that PEFT has not."""
    return Adapter(
        ref=ref, folder=str(folder), format="adapterhub", method=held.kind,
        config=held.peft(peft_type=held.kind, **held.own), tensors=tensors, entries=(),
        saved=tuple(Saved(name=n, spec=spec, own=True) for n, spec in tensors.items()),
    )  # fmt: skip


def _check_biases(held: Said, tensors: Mapping[str, TensorSpec], base: Path | None) -> None:
    """Refuse a DoRA of layers with biases: AdapterHub scales them too."""
    if base is None:
        raise Unsupported(
            f"{shown(held.file)}: AdapterHub's DoRA scales biases too, and PEFT's does not. "
            "Pass the model as --base; only headers are read, to see whether there are any."
        )
    there = checkpoint.read(base, str(base)).tensors
    for target in targets(held, tensors):
        if not _found(there, f"{target}.weight"):
            raise Mismatch(
                f"{shown(target)} is not in {shown(base)}. Pass the base that it was trained on."
            )
        if any(tensorfile.read(there[n]).any() for n in _found(there, f"{target}.bias")):
            raise Unsupported(
                f"{shown(target)} has a bias, which AdapterHub's DoRA scales and PEFT's does not. "
                "Merge it with the adapters library."
            )


def _found(there: Collection[str], name: str) -> list[str]:
    """Find a tensor's name, with or without the prefix of a base model."""
    return [n for n in there if n == name or n.endswith(f".{name}") or name.endswith(f".{n}")]
