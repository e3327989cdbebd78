"""Open an adapter: config and headers only."""

from __future__ import annotations

from pathlib import Path

from adaptertools import hub, plugins
from adaptertools.adapter import Adapter
from adaptertools.errors import UnknownFormat, first, shown
from adaptertools.formats import Format


def open_adapter(ref: str | Path | Adapter) -> Adapter:
    """Open an adapter from a folder or the Hub, reading its config and header, no tensor data.

    Raises NotFound, Unreadable, UnknownFormat, Unsupported or HubError.
    """
    if isinstance(ref, Adapter):
        return ref
    folder = hub.local(ref, "adapter")
    files = sorted(path.name for path in folder.iterdir())
    for name in plugins.names("formats"):
        module = plugins.load("formats", name)
        found: Format = module  # type: ignore[assignment]
        if found.matches(files):
            return found.read(folder, str(ref))
    raise UnknownFormat(
        f"{shown(folder)} is no adapter of a known format ({', '.join(plugins.names('formats'))}). "
        f"Found: {first(files) or 'nothing'}. Expected adapter_config.json and "
        "adapter_model.safetensors."
    )
