"""The base that was named: its config and headers, of a repository without fetching its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from adaptertools import checkpoint, hub
from adaptertools.checkpoint import INDEX, SINGLE, Checkpoint
from adaptertools.errors import AdapterToolsError, Unsupported, shown
from adaptertools.ref import parse
from adaptertools.verbs._place import away

CONFIG = "config.json"
MOST = 500  # shards whose headers are fetched


@dataclass(frozen=True, slots=True)
class Place:
    """Where a base lies; of a repository config, index and headers only."""

    ref: str
    folder: Path
    there: tuple[str, ...] | None = None  # what the repository holds; None where all is here

    def read(self) -> Checkpoint:
        """Read config and headers; what lies in a repository has no data, and says so when read.

        Raises what `checkpoint.read` raises.
        """
        if self.there is None:
            return checkpoint.read(self.folder, self.ref)
        if SINGLE not in self.there and INDEX not in self.there:
            raise checkpoint.missing(Path(self.ref), self.there)
        try:
            held = checkpoint.read(self.folder, self.ref)
        except AdapterToolsError as error:
            # The repository is at fault, and not the place where pieces of it are kept.
            raise type(error)(str(error).replace(shown(self.folder), shown(self.ref))) from None
        shards = {name: replace(header, tensors=away(header.tensors))
                  for name, header in held.shards.items()}  # fmt: skip
        return replace(held, folder=self.ref, shards=shards)

    def config(self) -> dict[str, object] | None:
        """Read the config alone; None where there is none."""
        path = self.folder / CONFIG
        return checkpoint.read_json(path) if path.is_file() else None


def find(base: str | Path) -> Place:
    """Look for a base; of a repository fetch what lists its tensors.

    Raises NotFound where there is none, HubError where the Hub fails.
    """
    ref = parse(base)
    if ref.path is not None:
        return Place(str(base), hub.local(ref, "base"))
    looked = hub.peek.peek(ref)
    looked.want([CONFIG, INDEX])
    looked.want(_shards(looked.folder / INDEX, str(base)) if looked.here(INDEX) else [SINGLE])
    return Place(str(base), looked.folder, tuple(sorted(looked.files)))


def _shards(index: Path, base: str) -> list[str]:
    """Name the shards of an index, those that lie beside it; `checkpoint` judges the rest."""
    named = checkpoint.read_json(index).get("weight_map")
    names = dict.fromkeys(named.values() if isinstance(named, dict) else ())
    shards = [name for name in names if isinstance(name, str) and "/" not in name]
    if len(shards) > MOST:
        raise Unsupported(
            f"{shown(base)} has {len(shards)} shards, and the headers of {MOST} are fetched at "
            "most. Download it, and give its folder."
        )
    return shards
