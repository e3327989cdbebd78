"""Whether adapters may be added at all: of one base, of one shape, none of them twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from adaptertools.adapter import Adapter
from adaptertools.errors import Mismatch, Unreadable, first, shown
from adaptertools.report import Finding
from adaptertools.verbs._finish import RECEIPT, read_receipt
from adaptertools.verbs._sources import Source

# Who publishes other people's models under the same name, so that the name alone counts.
_MIRRORS = frozenset(
    ["albert", "distilbert", "facebookai", "google-bert", "google-t5", "nousresearch",
     "openai-community", "unsloth", "xlnet"]
)  # fmt: skip
_RENAMED = {
    "meta-llama-3.1-8b": "llama-3.1-8b", "meta-llama-3.1-8b-instruct": "llama-3.1-8b-instruct",
    "meta-llama-3.1-70b": "llama-3.1-70b", "meta-llama-3.1-70b-instruct": "llama-3.1-70b-instruct",
    "meta-llama-3.1-405b": "llama-3.1-405b",
}  # fmt: skip
# How people name a repository that holds another one's weights in fewer bits.
_PACKED = re.compile(
    r"(?i)(-unsloth)?-bnb-[48]bit$|-[48]bit$|-(nf4|fp4|int[48]|fp8|awq|gptq)(-int[48])?$"
)
_LOCAL = re.compile(r"^[./~\\]|\\|/.*/|^[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class Named:
    """An adapter with its weight, opened as factors."""

    source: Source
    weight: float
    sha256: str

    @property
    def ref(self) -> str:
        """The adapter as the user named it."""
        return self.source.adapter.ref

    @property
    def adapter(self) -> Adapter:
        """The adapter itself."""
        return self.source.adapter


def check_twice(adapters: Sequence[Adapter]) -> None:
    """Refuse one folder named twice; a copy of it in another place is the user's own affair."""
    folders: set[Path] = set()
    for adapter in adapters:
        folder = Path(adapter.folder).resolve()
        if folder in folders:
            raise Mismatch(
                f"{shown(adapter.ref)} is named twice. Name it once, with the sum of its weights."
            )
        folders.add(folder)


def check_base(named: Sequence[Named], how: str) -> tuple[str | None, list[Finding]]:
    """Hold the bases against one another; give the one that the stack is of, and what to say.

    `how` is "strict", "warn" (faults become warnings) or "off".
    Raises Mismatch where they differ, and where an adapter needs another one whole.
    """
    said: list[Finding] = []

    def fault(text: str, place: str, hint: str) -> None:
        if how == "strict":
            raise Mismatch(f"{text} {hint}")
        if how == "warn":
            said.append(_finding("STK001", "warning", place, text))

    bases = {each.ref: _unchained(each, named, fault) for each in named}
    known = [(each, base) for each in named if (base := bases[each.ref])]
    for (one, a), (two, b) in combinations(known, 2):
        if not same_base(a, b):
            fault(f"{shown(one.ref)} is of the base {shown(a)}, {shown(two.ref)} of {shown(b)}: "
                  "their updates do not add up.", two.ref,
                  "Pass --base-check warn if these are two names of one model.")  # fmt: skip
        elif a != b and how != "off":
            said.append(_finding("STK002", "note", two.ref, f"{shown(a)} and {shown(b)} are taken "
                                 "for one base, by their names."))  # fmt: skip
    _check_revisions(named, fault)
    _check_common(named, fault)
    if (
        how != "off"
        and len(named) > 1
        and (unknown := [each.ref for each in named if not bases[each.ref]])
    ):
        said.append(_finding("STK003", "warning", "", f"{first(unknown)}: no base is named, so "
                             "whether it is the others' base is not known."))  # fmt: skip
    plain = [base for _, base in known if not _PACKED.search(base)]
    return next(iter([*plain, *(base for _, base in known)]), None), said


def same_base(one: str, two: str) -> bool:
    """Tell whether two names are of one model: case, mirrors, renamings, packings, local folders.

    What stands for another's weights in fewer bits counts as that model.
    """
    (a_owner, a), (b_owner, b) = _apart(one), _apart(two)
    return a == b and (a_owner == b_owner or a_owner is None or b_owner is None)


def _apart(name: str) -> tuple[str | None, str]:
    """Give owner and model; no owner where the name alone counts."""
    owner, _, model = name.replace("\\", "/").rstrip("/").rpartition("/")
    model = _PACKED.sub("", model).casefold()
    owner = owner.casefold()
    alone = not owner or owner in _MIRRORS or bool(_LOCAL.search(name))
    return None if alone else owner, _RENAMED.get(model, model)


def _unchained(each: Named, named: Sequence[Named], fault: Callable[..., None]) -> str | None:
    """Give the base that an adapter is of, through merged models that our receipts tell of."""
    base, seen = each.adapter.base, 0
    while base and seen < 20 and (receipt := _receipt(base)) is not None:
        seen += 1
        for part in receipt["adapters"]:
            found = next((n for n in named if n.sha256 == part["sha256"]), None)
            if found is None:
                fault(f"{shown(each.ref)} was trained on {shown(base)}, which is "
                      f"{shown(receipt['base']['ref'])} with {shown(part['ref'])} merged in, and "
                      "that adapter is not in the stack.", each.ref,
                      "Add it, with the weight that it was merged with.")  # fmt: skip
            elif found.weight != part["scale"]:
                fault(f"{shown(each.ref)} was trained on a base with {shown(found.ref)} merged in "
                      f"at {part['scale']:g}, and here that has the weight {found.weight:g}: "
                      f"{shown(each.ref)} would meet another model than it was trained on.",
                      each.ref, f"Give it {part['scale']:g}.")  # fmt: skip
        base = receipt["base"]["ref"]
    return base


def _receipt(base: str) -> dict[str, Any] | None:
    """Read the receipt of a merged model where the base is one, in a folder of this machine."""
    folder = Path(base)
    if not (folder / RECEIPT).is_file():
        return None
    try:
        return read_receipt(folder)
    except Unreadable:
        return None


def _check_revisions(named: Sequence[Named], fault: Callable[..., None]) -> None:
    known = [(n, str(r)) for n in named if (r := n.adapter.config.get("revision"))]
    for (one, a), (two, b) in combinations(known, 2):
        if a != b:
            fault(f"{shown(one.ref)} is of revision {shown(a)} of its base, {shown(two.ref)} of "
                  f"{shown(b)}.", two.ref, "Pass --base-check warn if the weights are the "
                  "same.")  # fmt: skip


def _check_common(named: Sequence[Named], fault: Callable[..., None]) -> None:
    """Refuse adapters whose modules have not even the beginning of a name in common."""
    for one, two in combinations(named, 2):
        a, b = one.source.entries, two.source.entries
        roots = _roots(a), _roots(b)
        if all(roots) and not a.keys() & b.keys() and not roots[0] & roots[1]:
            fault(f"{shown(one.ref)} and {shown(two.ref)} have nothing in common: one adapts "
                  f"{first(sorted(a), 1)}, the other {first(sorted(b), 1)}.", two.ref,
                  "Pass --base-check warn if one model has all of these.")  # fmt: skip


def _roots(names: Iterable[str]) -> set[str]:
    """Give how names begin; a lone head or embedding belongs to any model."""
    return {name.partition(".")[0] for name in names if "." in name}


def check_shapes(named: Sequence[Named]) -> None:
    """Refuse modules for which two adapters have updates of different shapes."""
    held: dict[str, tuple[Named, tuple[int, ...], str]] = {}
    for each in named:
        for target in each.source.entries:
            now = each, each.source.axes(target), "embedding" if embeds(each, target) else "layer"
            before = held.setdefault(target, now)
            if before[1:] != now[1:]:
                raise Mismatch(
                    f"{shown(target)}: {shown(before[0].ref)} changes a {before[2]} of "
                    f"{_times(before[1])}, {shown(each.ref)} a {now[2]} of {_times(now[1])}. They "
                    "are not of one base. Check which bases they were trained on."
                )


def embeds(each: Named, target: str) -> bool:
    """Tell whether a module is an embedding."""
    return "lora_embedding_A" in each.source.entries[target].parts


def _times(axes: Sequence[int]) -> str:
    return "×".join(map(str, axes))


def _finding(code: str, level: Any, place: str, text: str) -> Finding:
    return Finding(code=code, level=level, place=place, text=text)
