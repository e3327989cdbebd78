"""An adapter here whose format is not PEFT's folder, read as PEFT would store it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adaptertools.adapter import Adapter
from adaptertools.errors import AdapterToolsError, Unsupported
from adaptertools.verbs.open import detected, open_adapter, place

_SUFFIXES = (".gguf", ".safetensors", ".npz", ".lora", ".pt", ".pth", ".ckpt", ".bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """What was recognised; `adapter` is None where it could not be read, and `fault` says why."""

    format: str
    folder: Path
    file: str  # its weights
    adapter: Adapter | None = None
    fault: str = ""
    damaged: bool = False  # else it holds what is not read
    named: bool = False  # the user named the file

    @property
    def sure(self) -> bool:
        """Whether it is of that format; a folder is taken for kohya's for any one safetensors."""
        return self.adapter is not None or self.damaged or self.named


def foreign(thing: object, base: object = None) -> Foreign | None:
    """Recognise a folder or a file; None for PEFT's, for what is not here and what nobody knows.

    `base` is given to formats whose names need it, where it is a folder or file here.
    """
    path = Path(thing) if isinstance(thing, str | Path) else None
    if path is None or not path.exists():
        return None
    where, files = place(path)
    kind = detected(files)
    if kind in (None, "peft"):
        return None
    folder = where if where.is_dir() else where.parent
    file = path.name if path.is_file() else _weights(files)
    known = Path(base) if isinstance(base, str | Path) and Path(base).exists() else None
    try:
        adapter = open_adapter(where, format=kind, base=known)
    except AdapterToolsError as error:
        return Foreign(
            format=str(kind), folder=folder, file=file, fault=str(error), named=path.is_file(),
            damaged=not isinstance(error, Unsupported),
        )  # fmt: skip
    return Foreign(format=str(kind), folder=folder, file=file, adapter=adapter)


def _weights(files: list[str]) -> str:
    return next((n for end in _SUFFIXES for n in files if n.endswith(end)), "")
