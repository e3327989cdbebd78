"""What merging would change: whether it can be done, and which tensors of a base it is about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from adaptertools import plugins, targets
from adaptertools.adapter import Adapter
from adaptertools.checkpoint import Checkpoint
from adaptertools.errors import AdapterToolsError, Unsupported, first, shown
from adaptertools.methods._refused import refusal
from adaptertools.verbs._base import find
from adaptertools.verbs._entries import has_role
from adaptertools.verbs._inspect_config import word
from adaptertools.verbs._inspect_held import Held
from adaptertools.verbs._inspect_parts import Contents

if TYPE_CHECKING:
    from adaptertools.methods import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Merging:
    """Whether the adapter can be merged, and what of a base would change."""

    possible: bool
    why: str = ""  # why not
    base: str | None = None  # the base that was looked at
    changes: tuple[str, ...] = ()  # its tensors that would change or be added, as patterns
    changed: int | None = None
    tensors: int | None = None  # of the base


def merging(held: Held, found: Contents, base: str | Path | None) -> Merging:
    """Say what a merge would do, from headers.

    Raises what opening the base raises; that the two do not fit is an answer.
    """
    stored = find(base).read() if base is not None else None
    try:
        adapter = _checked(held, found)
        return _into(adapter, stored) if stored else Merging(possible=True)
    except FileNotFoundError:  # a repository's tensors are not there, and it took some of them
        why = "To tell takes tensors, and of a repository only headers were read. Give folders."
        return Merging(possible=False, why=why, base=str(base))
    except AdapterToolsError as error:
        return Merging(possible=False, why=str(error), base=stored.ref if stored else None)


def _into(adapter: Adapter, stored: Checkpoint) -> Merging:
    from adaptertools.verbs._assembly import assemble
    from adaptertools.verbs._quantise import recognise

    it = assemble(stored, [(adapter, 1.0)], mha_out_proj="once", packed=recognise(stored))
    changed = [name for name, draft in it.drafts.items() if draft.updates or draft.why]
    return Merging(
        possible=True, base=stored.ref, changes=targets.fold(changed), changed=len(changed),
        tensors=len(stored.tensors),
    )  # fmt: skip


def _checked(held: Held, found: Contents) -> Adapter:
    """Give the adapter, if its method can be merged as far as the adapter alone can tell."""
    method = word(held.words, held.config, "method")
    if held.words != "peft" or method is None:
        raise Unsupported(held.refused or held.fault or "It is of no format that is merged.")
    how = cast("Method | None", plugins.load("methods", method.lower()))
    if how is None:
        raise refusal(method, "The adapter")
    if found.adapter is None:
        raise Unsupported(found.why or held.fault or "There are no weights.")
    adapter = found.adapter
    how.check(adapter.config)
    if views := [name for name, spec in held.tensors.items() if spec.start < 0]:
        raise Unsupported(
            f"{first(views, 2)}: views that do not lie in one piece. Run `adaptertools convert` on "
            f"{shown(held.file)} first, and merge what that writes."
        )
    for entry in adapter.entries:
        if odd := sorted(role for role in entry.parts if not has_role(role, how.tensors)):
            raise Unsupported(f"{shown(entry.target)}: {how.peft_type} has no {shown(odd[0])}.")
    return adapter
