"""What somebody who looks at an adapter would want to be told, beside the facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from adaptertools.errors import first, shown
from adaptertools.verbs._inspect_held import Held
from adaptertools.verbs._inspect_parts import Contents, ghosts, misranked

if TYPE_CHECKING:
    from adaptertools.verbs._inspect_deep import Norm


def notes(held: Held, found: Contents, norms: Sequence[Norm] | None) -> Iterator[str]:
    """Say what is unusual, a sentence each; `validate` judges."""
    yield from _files(held)
    if found.why:
        yield f"It cannot be read as PEFT reads it: {found.why}"
    yield from _names(held, found)
    if norms is not None:
        yield from _sizes(held, found, norms)


def _files(held: Held) -> Iterator[str]:
    if held.dialect == "lfs":
        yield "adapter_config.json is a Git LFS pointer, not the config. Run `git lfs pull`."
    elif held.adapter and held.dialect != "peft":
        yield "It was read as PEFT would store it; names, shapes and sizes are those."
    elif held.dialect not in ("peft", "none"):
        yield "This is no PEFT adapter; its tensors are listed as they are."
    if held.refused and not held.fault:
        yield f"It is not read as an adapter: {held.refused}"
    if not held.tensors:
        yield f"No tensor is known: this is what the config says.{_wanted(held)}"
    elif held.file.endswith(".bin"):
        file = shown(held.file)
        yield f"{file} is a pickle; its tensors were listed without running it."
    if held.beside:
        yield f"There are adapters in subfolders too: {first(held.beside)}."


def _wanted(held: Held) -> str:
    wanted = held.config.get("target_modules")
    names = [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else []
    return f" Its target_modules: {first(names, 20)}." * bool(names)


def _names(held: Held, found: Contents) -> Iterator[str]:
    if ghostly := ghosts(found, held.config):
        yield f"target_modules lists {first(ghostly)}, and no tensor is for that."
    if wrong := misranked(found, held.config):
        target, rows = next(iter(wrong.items()))
        yield (f"{len(wrong)} modules are of another rank than the config says, such as "
               f"{shown(target)}: {rows}.")  # fmt: skip
    if found.unlisted:
        names = sorted({name.rpartition(".")[0] or name for name in found.unlisted})
        yield f"modules_to_save does not list what is saved whole: {first(names)}."
    for junk, count in (found.adapter.stripped if found.adapter else {}).items():
        yield f"{junk} was taken off {count} names."
    if ignored := (found.adapter.ignored if found.adapter else {}):
        yield f"{len(ignored)} tensors are not needed: {first(sorted(set(ignored.values())))}."


def _sizes(held: Held, found: Contents, norms: Sequence[Norm]) -> Iterator[str]:
    known = [norm for norm in norms if norm.norm is not None]
    if found.modules and not norms:
        yield "Sizes are given for LoRA only."
    if unknown := [norm for norm in norms if norm.norm is None]:
        yield f"{len(unknown)} of {len(norms)} modules have no size: {unknown[0].why}"
    dead = [norm for norm in known if norm.norm == 0]
    if known and len(dead) == len(norms):
        yield f"The change of all {len(dead)} modules is zero: this adapter was not trained."
    elif dead:
        names = first((norm.name for norm in dead), 3)
        yield f"The change of {len(dead)} of {len(norms)} modules is zero: {names}."
    if still := [n for n in known if n.experts > 1 and 0 < n.still < n.experts]:
        counts = f"{sum(n.still for n in still)} of {sum(n.experts for n in still)} experts"
        yield f"The change of {counts} is zero in {first((n.name for n in still), 3)}."
    if held.config.get("use_dora"):
        yield "Sizes are those of s·B·A; DoRA's magnitudes also need the base's weights."
    if held.config.get("kasa_config"):
        yield "Sizes are those of s·B·A; KaSA also takes components of the base away."
    init = held.config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(("pissa", "olora", "corda", "loftq")):
        yield "Sizes are those of s·B·A, which stands on a base that was changed at the start."
