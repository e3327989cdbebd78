"""What smoke compares with what: the base, the adapters beside it, and the merged model, if any."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptertools import hub, tensorfile
from adaptertools.errors import Mismatch, NotFound, Unreadable, Unsafe, Unsupported, shown
from adaptertools.verbs._config import embedding
from adaptertools.verbs._finish import RECEIPT, read_receipt

MODEL, ADAPTER, WEIGHTS = "config.json", "adapter_config.json", "adapter_model.safetensors"
Ref = str | Path


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model: as it was named, where it is, and its config.json."""

    ref: str
    folder: Path
    config: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        """Size of its weights on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))

    @property
    def packing(self) -> Mapping[str, Any]:
        """What it says about how it is quantised on disk; empty where it is not."""
        found = self.config.get("quantization_config")
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, kw_only=True)
class Beside:
    """One adapter that is run beside the base, by PEFT."""

    ref: str
    folder: Path
    config: Mapping[str, Any]  # its adapter_config.json
    scale: float = 1.0  # what the merge multiplied its update by

    @property
    def plain(self) -> bool:
        """Whether it only adds scaled products to weights: those sum, and can be rescaled."""
        c = self.config
        only = c.get("peft_type") == "LORA" and not c.get("use_dora")
        whole = c.get("modules_to_save") or c.get("trainable_token_indices")
        return only and not whole and c.get("bias", "none") == "none"

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        header = tensorfile.read_header(self.folder / WEIGHTS).tensors
        return {name: spec.shape for name, spec in header.items() if len(spec.shape) == 2}

    @property
    def labels(self) -> int | None:
        """How many labels the head has that it brings along; None where it brings none."""
        saved = [f".{name}." for name in self.config.get("modules_to_save") or ()]
        heads = {
            name: shape[0]
            for name, shape in self._shapes().items()
            if any(each in name for each in saved) and not embedding(name)
        }
        return heads[max(heads)] if heads else None

    @property
    def vocabulary(self) -> int | None:
        """How many rows the embeddings have that it brings along; None where it brings none."""
        rows = [shape[0] for name, shape in self._shapes().items() if embedding(name)]
        return max(rows, default=None)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is compared: any of them may be missing, but not all."""

    base: Model | None
    adapters: tuple[Beside, ...]
    merged: Model | None

    @property
    def small(self) -> bool:
        """Whether its models are toys."""
        return all(model.nbytes < 1 << 26 for model in (self.base, self.merged) if model)


def subject(thing: Ref, base: Ref | None, adapters: Sequence[Ref]) -> Subject:
    """Find out what a thing is, and what it has to be compared with.

    Raises NotFound, Unreadable, Mismatch, Unsafe or Unsupported; each says what to do.
    """
    folder = hub.local(thing, "model or adapter")
    if _is_adapter(folder):
        beside = tuple(_beside(ref) for ref in (thing, *adapters))
        return Subject(base=_base(base, beside), adapters=beside, merged=None)
    merged = _model(thing)
    if not (folder / RECEIPT).is_file():
        beside = tuple(_beside(ref) for ref in adapters)
        held = _base(base, beside) if base is not None or beside else None
        return Subject(base=held, adapters=_together(beside), merged=merged)
    receipt = read_receipt(folder)
    said = receipt["adapters"]
    if adapters and len(adapters) != len(said):
        raise Mismatch(
            f"{shown(thing)}: its receipt names {len(said)} adapters, and {len(adapters)} were "
            "given. Name each of them with --adapter, in the receipt's order, or none."
        )
    refs = list(adapters) or [each["ref"] for each in said]
    beside = tuple(_beside(r, each["scale"]) for r, each in zip(refs, said, strict=True))
    held = _model(base if base is not None else receipt["base"]["ref"], "base")
    return Subject(base=held, adapters=_together(beside), merged=merged)


def _is_adapter(folder: Path) -> bool:
    """Tell an adapter from a model; refuse a folder that is both or neither."""
    adapter, model = ((folder / name).is_file() for name in (ADAPTER, MODEL))
    weights = {path.name for path in folder.glob("*.safetensors")} - {WEIGHTS}
    if not adapter and not model:
        raise Unreadable(
            f"{shown(folder)} is neither a model nor an adapter: found neither {MODEL} nor "
            f"{ADAPTER}. Give the folder that holds one of them."
        )
    if adapter and model and weights:
        raise Mismatch(
            f"{shown(folder)} holds both a model and an adapter, and transformers would mix them. "
            f"Move {ADAPTER} and {WEIGHTS} to a folder of their own."
        )
    return adapter


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise NotFound(f"{shown(path)}: no such file. It says what the model is.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Unreadable(f"{shown(path)} is not readable JSON: {shown(error)}.") from error
    if not isinstance(value, dict):
        raise Unreadable(f"{shown(path)} holds no JSON object.")
    return value


def _model(ref: Ref, kind: str = "model") -> Model:
    folder = hub.local(ref, kind)
    if _is_adapter(folder):
        raise Mismatch(f"{shown(ref)} is an adapter; the {kind} was expected. Name a whole model.")
    return Model(ref=str(ref), folder=folder, config=_json(folder / MODEL))


def _base(ref: Ref | None, adapters: Sequence[Beside]) -> Model:
    """Open the base: the one that was given, or the one that the first adapter names."""
    named = ref or next((a.config.get("base_model_name_or_path") for a in adapters), None)
    if not named:
        raise NotFound(
            f"{shown(adapters[0].ref)} does not name its base in {ADAPTER}. Pass it as --base."
        )
    return _model(named, "base")


def _beside(ref: Ref, scale: float = 1.0) -> Beside:
    folder = hub.local(ref, "adapter")
    config = _json(folder / ADAPTER)
    if "peft_type" not in config:
        raise Unsupported(
            f"{shown(ref)}: its {ADAPTER} names no peft_type, so PEFT cannot run it. "
            "smoke runs adapters in PEFT's own format."
        )
    if not (folder / WEIGHTS).is_file():
        if (folder / "adapter_model.bin").is_file():
            raise Unsafe(
                f"{shown(ref)} holds adapter_model.bin, a pickle, which can run code when it is "
                f"read. Save the adapter again as {WEIGHTS}."
            )
        raise NotFound(f"{shown(folder / WEIGHTS)}: no such file. The adapter is not whole.")
    one = Beside(ref=str(ref), folder=folder, config=config, scale=scale)
    if scale != 1 and not one.plain:
        raise Unsupported(
            f"{shown(ref)} was merged with scale {scale:g}, and PEFT can only rescale plain LoRA: "
            "there is nothing to compare with. Merge it with scale 1 to try it."
        )
    return one


def _together(adapters: tuple[Beside, ...]) -> tuple[Beside, ...]:
    """Refuse adapters that PEFT does not sum as a merge does."""
    odd = [a.ref for a in adapters if not a.plain]
    if len(adapters) > 1 and odd:
        raise Unsupported(
            f"{shown(odd[0])} is not plain LoRA, and PEFT does not run it summed with others: "
            "there is nothing to compare the merge of several with. Merge and try one at a time."
        )
    return adapters
