"""Search the Hub for adapters of a base, and believe none that does not say it is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from adaptertools import hub, schema
from adaptertools.errors import UnknownMethod, Unsupported, shown
from adaptertools.hub.find import SORTS, Hit

MOST = 1_000  # hits


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search found. It can be walked through like its hits."""

    base: str  # as the Hub spells it
    method: str | None
    sort: str
    hits: tuple[Hit, ...]
    looked_at: int  # entries of the Hub's list
    left_out: Mapping[str, int]  # why -> how many
    more: bool  # whether a higher limit may find more

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def as_json(self) -> dict[str, Any]:
        """Give what schemas/search.schema.json describes."""
        body = asdict(self)
        return body | {"hits": [asdict(hit) | {"ref": hit.ref} for hit in self.hits]}


def search(
    base: str,
    *,
    method: str | None = None,
    sort: str = "downloads",
    limit: int = 20,
    token: str | None = None,
) -> Found:
    """Find adapters of a base model on the Hub.

    Args:
        base: the base's name, `user/repo`.
        method: only adapters of this method, such as "lora". One that does not say its method in
            what the Hub lists stays, with an empty `method`.
        sort: "downloads", "likes", "created", "modified" or "trending", the highest first.
        limit: how many at most.
        token: for private repositories, instead of the stored one.

    Each hit holds an adapter_config.json, and its config or card names the base. No adapter is
    fetched, so none is counted as downloaded.

    Raises NotFound where the base is no model on the Hub, UnknownMethod with the nearest name,
    Unsupported for another `sort` or limit, HubError where the Hub cannot be asked.
    """
    known = schema.names("adapter_config")
    if method is not None and method.lower() not in known:
        near = get_close_matches(method.lower(), known, 1)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
        raise UnknownMethod(f"--method {shown(method)} is no method of PEFT. {hint}")
    if sort not in SORTS:
        raise Unsupported(f"--sort {shown(sort)} is unknown. Known: {', '.join(SORTS)}.")
    if not 1 <= limit <= MOST:
        raise Unsupported(f"--limit {limit}: a number from 1 to {MOST} was expected.")
    method = method and method.lower()
    with hub.signed(token):
        found = hub.find.adapters_of(base, method=method, sort=sort, limit=limit, methods=known)
    return Found(
        base=found.base, method=method, sort=sort, hits=found.hits, looked_at=found.looked_at,
        left_out=found.left_out, more=found.more,
    )  # fmt: skip
