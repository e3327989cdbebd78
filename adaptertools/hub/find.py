"""Adapters of a base: what the Hub lists under its tag, each held against what it declares.

The tag is made from the card alone and some hubs ignore the question, so nothing is believed:
a hit has an adapter_config.json, and its config or card names the base.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from adaptertools.errors import AdapterToolsError, HubError, NotFound, shown
from adaptertools.hub import _declared, client, repo
from adaptertools.hub._declared import Declared
from adaptertools.ref import Ref, parse

SORTS = {"downloads": "downloads", "likes": "likes", "created": "created_at",
         "modified": "last_modified", "trending": "trending_score"}  # fmt: skip
MOST = 5_000  # entries of the Hub's list that are looked at
LOOKUPS = 50  # repositories that are asked one by one, where the list says too little
_EXPAND = ["cardData", "config", "createdAt", "downloads", "gated", "lastModified", "library_name",
           "likes", "private", "siblings", "tags", "trendingScore"]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An adapter of the base; None and empty where the Hub does not say."""

    id: str
    subfolder: str = ""  # where its adapter_config.json lies, if not at the root
    base: str  # as its config names it, else its card
    method: str = ""  # PEFT's name for it, in small letters
    downloads: int | None = None
    likes: int | None = None
    created: str = ""  # ISO 8601
    modified: str = ""
    trending: int | None = None
    licence: str = ""
    gated: str = ""  # "auto", "manual"
    private: bool = False

    @property
    def ref(self) -> str:
        """What to give to the other commands."""
        return f"{self.id}/{self.subfolder}" if self.subfolder else self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """What a search found, and what it passed by."""

    base: str  # as the Hub spells it
    hits: tuple[Hit, ...]
    looked_at: int
    left_out: Mapping[str, int]  # why -> how many
    more: bool  # whether there may be more than was asked for


def adapters_of(
    base: str, *, method: str | None = None, sort: str = "downloads", limit: int = 20,
    methods: Iterable[str] = (),
) -> Hits:  # fmt: skip
    """List adapters of a base on the Hub, the first by `sort`; each is checked for being one.

    `methods` are the names that a tag may say the method with, where no config says it. A hit
    whose method nobody says stays, whatever `method` asks for.
    Raises NotFound where `base` is no model on the Hub, HubError where the Hub fails.
    """
    name = _name(base)
    if client.offline():
        raise HubError(
            f"Only the Hub knows the adapters of {shown(name)}, and HF_HUB_OFFLINE forbids to ask "
            "it. Unset it."
        )
    take = partial(_take, wanted=_plain(method), methods={_plain(name): name for name in methods})
    found = _search(name, take, sort, limit)
    if not found.hits:
        # Either it has none, or the name is wrong, spelled otherwise or an old one.
        now = repo.resolve(Ref(name, repo=name)).id
        if now != name:
            found = _search(now, take, sort, limit)
    return found


def _name(base: str) -> str:
    """Give the name of a base on the Hub; revisions of it have the same adapters."""
    try:
        ref = parse(base, disk=False)
    except NotFound:
        ref = Ref(base)
    if not ref.repo or ref.subfolder:
        raise NotFound(
            f"{shown(base)!r} is no model on the Hub. Adapters are searched for by the name of "
            "their base there: user/repo."
        )
    return ref.repo


def _search(base: str, take: Callable[[Declared, str], Hit | str], sort: str, limit: int) -> Hits:
    judged: dict[str, Hit | str] = {}
    look = _Lookups()
    complete = False
    for count in _sizes(limit):
        rows = _rows(base, sort, count)
        for declared in filter(None, map(_declared.read, rows)):
            if declared.id not in judged:
                judged[declared.id] = take(look(declared), base)
        complete = len(rows) < count
        if complete or _count(judged) > limit:
            break
    hits = [hit for hit in judged.values() if isinstance(hit, Hit)]
    hits.sort(key=lambda hit: _place(getattr(hit, sort)), reverse=True)  # not every hub sorts
    reasons = Counter(why for why in judged.values() if isinstance(why, str))
    return Hits(
        base=base, hits=tuple(hits[:limit]), looked_at=len(judged), left_out=dict(reasons),
        more=len(hits) > limit or not complete,
    )  # fmt: skip


def _place(value: int | str | None) -> tuple[int, str]:
    """Order numbers and dates; what is not told comes last."""
    return (-1, "") if value is None else (value, "") if isinstance(value, int) else (0, value)


def _count(judged: Mapping[str, Hit | str]) -> int:
    return sum(isinstance(each, Hit) for each in judged.values())


def _sizes(limit: int) -> Iterator[int]:
    """Ask for a little more than is wanted, and for much more where much is left out."""
    count = limit + 1
    while count < MOST:
        yield count
        count = max(100, count * 5)
    yield MOST


def _rows(base: str, sort: str, count: int) -> list[Any]:
    def ask() -> list[Any]:
        # Pages follow one another inside; a page that fails starts the list anew.
        return list(
            islice(
                client.api().list_models(
                    filter=f"base_model:adapter:{base}", sort=SORTS[sort], limit=count,
                    expand=list(_EXPAND),
                ),
                count,
            )
        )  # fmt: skip

    return client.attempt(ask, f"adapters of {base}")


class _Lookups:
    """Asks a repository itself where the list says too little, a bounded number of times."""

    def __init__(self) -> None:
        self._left = LOOKUPS

    def __call__(self, declared: Declared) -> Declared:
        if declared.enough:
            return declared
        if not self._left:
            return replace(declared, fault="there are too many")
        self._left -= 1
        try:
            return _declared.ask(declared)
        except AdapterToolsError as error:
            return replace(declared, fault=type(error).__name__)


def _take(
    declared: Declared, base: str, *, wanted: str, methods: Mapping[str, str]
) -> Hit | str:  # fmt: skip
    """Make a hit of an entry, or say why it is none."""
    if declared.fault:
        return "could not be looked at"
    if not declared.is_adapter:
        return "hold no adapter_config.json"
    if base.lower() not in {name.lower() for name in declared.bases}:
        return "name another base" if declared.bases else "name no base"
    tagged = (methods[_plain(tag)] for tag in declared.tags if _plain(tag) in methods)
    method = declared.method or next(tagged, "")
    if wanted and method and _plain(method) != wanted:
        return "are of another method"
    return Hit(
        id=declared.id, subfolder=declared.subfolder, base=declared.named or base,
        method=method.lower(), **declared.figures,
    )  # fmt: skip


def _plain(name: str | None) -> str:
    return "".join(filter(str.isalnum, name or "")).lower()
