"""Open an adapter: config and headers only."""

from __future__ import annotations

from collections.abc import Collection
from inspect import signature
from pathlib import Path
from typing import cast

from adaptertools import hub, plugins
from adaptertools.adapter import Adapter
from adaptertools.dialect import CONFIG, WEIGHTS
from adaptertools.errors import UnknownFormat, first, shown
from adaptertools.formats import Format


def open_adapter(
    ref: str | Path | Adapter, *, format: str | None = None, base: Path | None = None
) -> Adapter:
    """Open an adapter from a folder, a file or the Hub, reading its config and header.

    `format` says which it is, where files of several lie together; PEFT's weights win otherwise.
    `base` is the base's folder, for formats whose names or rows need it.
    Formats whose tensors lie otherwise than PEFT's are copied into a temporary file.

    Raises NotFound, Unreadable, UnknownFormat, Unsupported or HubError.
    """
    if isinstance(ref, Adapter):
        return ref
    path, files = place(ref)
    format = format or detected(files)
    if format is None and path.is_file():
        hub.local(ref, "adapter")  # says that a folder was expected
    if format is None:
        raise UnknownFormat(
            f"{shown(path)} is no adapter of a known format ({', '.join(readers())}). "
            f"Found: {first(files) or 'nothing'}. Expected adapter_config.json and "
            "adapter_model.safetensors."
        )
    found = reader(format).read
    if base is not None and "base" in signature(found).parameters:
        return found(path, str(ref), base=base)  # type: ignore[call-arg]
    return found(path, str(ref))


def place(ref: str | Path) -> tuple[Path, list[str]]:
    """Give the folder and the names in it, or the file that a reference names and its name."""
    if (path := Path(ref)).is_file() and path.name != CONFIG:  # whose weights are beside it
        return path, [path.name]
    folder = hub.local(ref, "adapter")
    return folder, sorted(each.name for each in folder.iterdir())


def detected(files: Collection[str]) -> str | None:
    """Name the format that is read where nobody says which; None where none is recognised."""
    kinds = recognised(files)
    if "peft" in kinds and not set(WEIGHTS).isdisjoint(files):
        return "peft"
    return kinds[0] if kinds else None


def recognised(files: Collection[str]) -> list[str]:
    """Name the formats that files may be of; PEFT, whose config others share the name of, last."""
    found = [name for name in readers() if reader(name).matches(files)]
    return sorted(found, key=lambda name: name == "peft")


def readers() -> tuple[str, ...]:
    """Name the formats that can be read."""
    return tuple(n for n in plugins.names("formats") if hasattr(plugins.load("formats", n), "read"))


def reader(name: str) -> Format:
    """Give a format's file; raises UnknownFormat for another name."""
    if name not in readers():
        raise UnknownFormat(f"{shown(name)}: no such format. Known: {', '.join(readers())}.")
    return cast(Format, plugins.load("formats", name))
