"""Say what an adapter is, from its config and headers; with `deep` also how large its change is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools import hub, targets
from adaptertools.adapter import Adapter
from adaptertools.facts import Remote
from adaptertools.report import plain
from adaptertools.tensorfile import TensorSpec
from adaptertools.verbs._foreign import foreign
from adaptertools.verbs._inspect_config import at_least, number, variants, word
from adaptertools.verbs._inspect_held import Held, hold, hold_foreign
from adaptertools.verbs._inspect_merge import Merging, merging
from adaptertools.verbs._inspect_notes import notes
from adaptertools.verbs._inspect_parts import Contents, Module, contents
from adaptertools.verbs._place import CONFIG, aim

if TYPE_CHECKING:
    from adaptertools.verbs._inspect_deep import Norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Modules whose names differ in numbers only; each tuple holds the values that occur."""

    name: str  # with a star for each number
    modules: int
    weights: tuple[tuple[int, ...], ...]  # shapes of the weights that change; empty is unknown
    rank: tuple[float, ...]
    alpha: tuple[float, ...]
    scale: tuple[float, ...]  # what the update is multiplied by; empty where only training knows
    roles: tuple[str, ...]
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The file of weights."""

    file: str
    pickled: bool
    tensors: int
    parameters: int
    bytes: int
    dtypes: Mapping[str, int]  # dtype -> how many tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One tensor, as its header describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    role: str  # lora_A, "saved whole" …; empty where nothing says


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What an adapter is. None and empty are unknown."""

    ref: str
    dialect: str  # whose format it is, or whose config: peft, gguf, tunix, lfs, unknown, none …
    method: str | None
    variants: tuple[str, ...]
    task: str | None
    base: str | None
    revision: str | None
    peft_version: str | None  # that wrote it, as the config says
    peft_at_least: str | None  # the oldest that knows all keys of the config
    rank: tuple[float, ...]  # every value that occurs, as in `kinds`; the config's without them
    alpha: tuple[float, ...]
    scale: tuple[float, ...]
    targets: tuple[str, ...]  # the modules, as patterns
    modules: int
    kinds: tuple[Kind, ...]
    saved: tuple[str, ...]  # tensors saved whole, as patterns
    biases: int  # those of them that are the base's biases, trained along
    token_rows: Mapping[str, int]  # embedding -> rows that were trained
    others: tuple[str, ...]  # tensors that belong to no module, as patterns
    weights: Stored | None
    fault: str  # why the weights could not be read
    merge: Merging
    beside: tuple[str, ...]  # subfolders that hold adapters too
    notes: tuple[str, ...]
    tensors: tuple[Listed, ...] | None = None  # where they were asked for
    norms: tuple[Norm, ...] | None = None  # where they were asked for
    remote: Remote | None = None  # the repository that was looked at

    @property
    def ok(self) -> bool:
        """Whether everything could be read."""
        return not self.fault

    def as_json(self) -> dict[str, Any]:
        """Give what schemas/inspect.schema.json describes."""
        value: dict[str, Any] = plain(self)  # in one pass: there may be very many tensors
        return {"ok": self.ok, **value}


def inspect(
    thing: str | Path | Adapter, *, base: str | Path | None = None, tensors: bool = False,
    deep: bool = False, revision: str | None = None, token: str | None = None,
    progress: Callable[[int], object] | None = None,
) -> Inspection:  # fmt: skip
    """Say what an adapter is, from its config and headers; nothing is judged.

    A method that cannot be merged, a dialect that is not PEFT's or weights that are damaged are
    things to say, and no errors.

    Args:
        thing: folder, Hub reference or open adapter. Of a repository only what lists the tensors
            is fetched, unless `deep`.
        base: the base model, to name the tensors of it that a merge would change.
        tensors: list every tensor.
        deep: read the tensors, and give size and rank of each module's change.
        revision: branch, tag, commit, or refs/pr/N; another way to say user/repo@revision.
        token: instead of the one that `hf auth login` stored.
        progress: called with bytes read, with `deep`.

    Raises NotFound or HubError where there is nothing there, UnknownFormat where it holds no
    adapter, Unreadable where its config is damaged, Unsafe where that is a link out of the folder,
    and what opening `base` raises.
    """
    with hub.signed(token):
        held = _hold(thing, base, deep, revision)
        found = contents(held)
        merge = merging(held, found, base)
    norms = _norms(found, base, progress or (lambda count: None)) if deep else None
    return _inspection(held, found, merge, norms, tensors)


def _hold(
    thing: str | Path | Adapter, base: str | Path | None, deep: bool, revision: str | None
) -> Held:
    """Look into a folder or a file, whatever its format; any config is better than none."""
    other = None if isinstance(thing, Adapter) or revision else foreign(thing, base)
    if other and other.sure and (other.adapter or not (other.folder / CONFIG).is_file()):
        return hold_foreign(other, str(thing))
    held = hold(thing if isinstance(thing, Adapter) else aim(thing, revision), deep=deep)
    if other is None:
        return held
    return replace(held, refused=other.fault, fault=other.fault if other.damaged else held.fault)


def _inspection(
    held: Held, found: Contents, merge: Merging, norms: tuple[Norm, ...] | None, tensors: bool
) -> Inspection:
    dialect, config = held.words, held.config
    return Inspection(
        ref=held.ref, dialect=held.dialect, variants=variants(dialect, config),
        method=word(dialect, config, "method"), task=word(dialect, config, "task"),
        base=word(dialect, config, "base"), revision=word(dialect, config, "revision"),
        peft_version=word(dialect, config, "peft_version"),
        peft_at_least=at_least(held.dialect, config),
        rank=_overall(held, found, "rank"), alpha=_overall(held, found, "alpha"),
        scale=_overall(held, found, "scale"),
        targets=targets.fold(module.target for module in found.modules),
        modules=len(found.modules), kinds=tuple(_kinds(found.modules)),
        saved=targets.fold(found.saved), biases=found.biases,
        token_rows=found.rows, others=targets.fold(found.others), weights=_stored(held),
        fault=held.fault, merge=merge, beside=held.beside,
        notes=tuple(notes(held, found, norms)), norms=norms, remote=held.remote,
        tensors=tuple(_listed(held.tensors.values(), found)) if tensors else None,
    )  # fmt: skip


def _overall(held: Held, found: Contents, key: str) -> tuple[float, ...]:
    """Give the values of all modules; where there are none, what the config says."""
    values = _values(getattr(module, key) for module in found.modules)
    return values or _values([number(held.words, held.config, key)])


def _norms(
    found: Contents, base: str | Path | None, progress: Callable[[int], object]
) -> tuple[Norm, ...]:
    from adaptertools import plugins
    from adaptertools.verbs import _inspect_deep, _inspect_experts
    from adaptertools.verbs._sources_base import shapes

    adapter = found.adapter
    # Of other methods a size takes the base: they multiply it, or need its shape.
    known = adapter is not None and adapter.method == "LORA"
    method = plugins.load("methods", "lora") if known else None
    if adapter is None or method is None:
        return ()
    if adapter.config.get("target_parameters"):
        headers = shapes(base) if base else None
        return tuple(_inspect_experts.measure(adapter, method, headers, progress))
    return tuple(_inspect_deep.measure(adapter, method, progress))


def _stored(held: Held) -> Stored | None:
    if not held.file:
        return None
    specs = held.tensors.values()
    return Stored(
        file=held.file, pickled=held.file.endswith(".bin"), tensors=len(specs),
        parameters=sum(prod(spec.shape) for spec in specs),
        bytes=sum(spec.nbytes for spec in specs),
        dtypes=dict(sorted(Counter(spec.dtype for spec in specs).items())),
    )  # fmt: skip


def _kinds(modules: Sequence[Module]) -> Iterable[Kind]:
    groups: dict[str, list[Module]] = {}
    for module in modules:
        groups.setdefault(targets.kind(module.target), []).append(module)
    for name, held in sorted(groups.items()):
        specs = [spec for module in held for spec in module.parts.values()]
        yield Kind(
            name=name, modules=len(held), roles=tuple(sorted({r for m in held for r in m.parts})),
            weights=tuple(sorted({m.weight for m in held if m.weight is not None})),
            rank=_values(m.rank for m in held), alpha=_values(m.alpha for m in held),
            scale=_values(m.scale for m in held), bytes=sum(spec.nbytes for spec in specs),
            parameters=sum(prod(spec.shape) for spec in specs),
        )  # fmt: skip


def _values(found: Iterable[float | None]) -> tuple[float, ...]:
    return tuple(sorted({value for value in found if value is not None}))


def _listed(specs: Iterable[TensorSpec], found: Contents) -> Iterable[Listed]:
    for spec in specs:
        yield Listed(
            name=spec.name, dtype=spec.dtype, shape=spec.shape, bytes=spec.nbytes,
            role=found.roles.get(spec.name, ""),
        )  # fmt: skip
