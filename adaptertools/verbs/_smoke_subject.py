"""What smoke compares with what: the base, the adapters beside it, and the merged model, if any."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptertools import hub
from adaptertools.errors import Mismatch, NotFound, Unreadable, Unsafe, Unsupported, shown
from adaptertools.verbs._finish import RECEIPT, read_receipt
from adaptertools.verbs._smoke_model import ADAPTER, MODEL, WEIGHTS, Beside, Model

Ref = str | Path


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
