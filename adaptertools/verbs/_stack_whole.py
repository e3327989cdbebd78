"""What adapters save whole, or as token rows: taken from one, averaged, or refused.

A saved tensor R stands for base + (R − base), so that a weighted sum of such changes is
base + Σ wᵢ(Rᵢ − base). Where the weights add up to 1 the base cancels; else nobody can say what it
is without the base. Equal copies are one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from adaptertools import tensorfile
from adaptertools.adapter import Saved, TokenRows
from adaptertools.errors import Mismatch, Unsupported, first, shown
from adaptertools.formats._peft_write import rows_key, whole_key
from adaptertools.tensorfile import FLOATS, TensorSpec, dtype_of
from adaptertools.verbs._stack_match import Named

if TYPE_CHECKING:
    from adaptertools.update import Array

_PIECE = 2**21  # elements that are read at a time
_HELP = "Pass --modules-to-save from=ADAPTER to take one, or --modules-to-save mean."


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A tensor of the output that is no factor, and how it is made."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Iterable[Array]]  # its rows in pieces, in its dtype
    told: str  # from whom, for the card


@dataclass(frozen=True, slots=True)
class Held:
    """One adapter's copy of a tensor."""

    by: Named
    spec: TensorSpec

    @property
    def weight(self) -> float:
        """The adapter's weight."""
        return self.by.weight


def wholes(named_: Sequence[Named], targets: Collection[str], choice: str) -> list[Whole]:
    """Give the saved tensors of the output, by name; `targets` are the modules it adapts.

    Raises Unsupported where they conflict and `choice` ("error", "mean", "from=…") does not say
    what is wanted, Mismatch where two copies have different shapes.
    """
    groups: dict[str, list[tuple[Named, Saved]]] = {}
    for each in named_:
        for saved in each.source.saved:
            groups.setdefault(saved.name, []).append((each, saved))
    embedded = {rows.target for each in named_ for rows in each.source.rows}
    made = []
    for name, group in sorted(groups.items()):
        module = name.rpartition(".")[0]
        wrapper = _wrapper(name, group, targets, embedded)
        held = [Held(each, saved.spec) for each, saved in group]
        whole = all(saved.own for _, saved in group)
        bias = whole and not _listed(module, group)
        if whole and not bias and module in targets:
            raise Unsupported(
                f"{shown(module)} is saved whole by {shown(held[0].by.ref)} and adapted by "
                "another: no PEFT adapter can be both. `adaptertools merge` can do it."
            )
        told = "bias" if bias else "saved" if whole else "base"
        made.append(_settled(name, whole_key(name, wrapper), held, told, choice))
    return made


def _wrapper(
    name: str, group: Sequence[tuple[Named, Saved]], targets: Collection[str],
    embedded: Collection[str],
) -> str:  # fmt: skip
    """Tell under which wrapper PEFT looks for a tensor in the stacked model."""
    module = name.rpartition(".")[0]
    if _listed(module, group) and all(saved.own for _, saved in group):
        return ""
    if module in embedded:
        return "token_adapter.base_layer"
    return "base_layer" if module in targets else ""


def _listed(module: str, group: Sequence[tuple[Named, Saved]]) -> bool:
    """Tell whether modules_to_save has the module: by whole components, anywhere in its name."""
    lists = [each.adapter.config.get("modules_to_save") or [] for each, _ in group]
    return any(f".{name}." in f".{module}." for names in lists for name in names)


def _settled(name: str, key: str, held: Sequence[Held], kind: str, choice: str) -> Whole:
    """Choose, average or refuse the copies of one tensor."""
    for each in held:
        if each.spec.shape != held[0].spec.shape:
            raise Mismatch(
                f"{shown(name)}: {shown(held[0].by.ref)} saves it as {list(held[0].spec.shape)}, "
                f"{shown(each.by.ref)} as {list(each.spec.shape)}. Stack only one of them."
            )
    equal = all(tensorfile.same(held[0].spec, each.spec) for each in held[1:])
    total = sum(each.weight for each in held)
    wanted = [each for each in held if choice == f"from={each.by.ref}"]
    exact = equal and (kind == "base" or abs(total - 1) < 1e-12)
    if wanted or exact or (equal and choice == "mean"):
        return _one(key, (wanted or held)[0])
    if choice == "mean" or (kind == "bias" and abs(total - 1) < 1e-12):
        return _mean(name, key, held, total)
    raise _refused(name, held, total)


def _refused(name: str, held: Sequence[Held], total: float) -> Unsupported:
    if len(held) > 1:
        who = first(each.by.ref for each in held)
        return Unsupported(
            f"{shown(name)} is saved whole by {who}: one tensor cannot be all of them. {_HELP}"
        )
    return Unsupported(
        f"{shown(name)} is saved whole by {shown(held[0].by.ref)}, and {total:g} times the way to "
        f"it from the base is not known without the base. {_HELP}"
    )


def _one(key: str, held: Held) -> Whole:
    return Whole(
        name=key, dtype=held.spec.dtype, shape=held.spec.shape, told=held.by.ref,
        make=lambda: _pieces(held.spec),
    )  # fmt: skip


def _mean(name: str, key: str, held: Sequence[Held], total: float) -> Whole:
    """Average by weight, Σ wᵢRᵢ / Σ wᵢ: the exact sum where the weights add up to 1."""
    specs = [each.spec for each in held]
    if odd := [spec.dtype for spec in specs if spec.dtype not in FLOATS]:
        raise Unsupported(f"{shown(name)} is stored as {odd[0]}; only floats have a mean.")
    if abs(total) < 1e-12:
        raise Unsupported(f"{shown(name)}: weights that add up to 0 have no mean. {_HELP}")
    dtype = widest(spec.dtype for spec in specs)
    shares = [each.weight / total for each in held]
    who = first(each.by.ref for each in held)
    return Whole(
        name=key, dtype=dtype, shape=specs[0].shape, told=f"weighted mean of {who}",
        make=lambda: _averaged(specs, shares, dtype),
    )  # fmt: skip


def _averaged(specs: Sequence[TensorSpec], shares: Sequence[float], dtype: str) -> Iterator[Array]:
    for parts in zip(*map(_pieces, specs), strict=True):
        total = sum(s * part.astype("float64") for s, part in zip(shares, parts, strict=True))
        yield cast("Array", total).astype(dtype_of(dtype))


def _pieces(spec: TensorSpec) -> Iterator[Array]:
    """Read a tensor some rows at a time: a saved head can be larger than all factors."""
    step, size = max(_PIECE // max(spec.columns, 1), 1), spec.nbytes // max(spec.rows, 1)
    for row in range(0, spec.rows, step):
        count = min(step, spec.rows - row)
        start = spec.start + row * size
        shape = (count, *spec.shape[1:]) if spec.shape else ()
        yield tensorfile.read(spec._replace(shape=shape, start=start, stop=start + count * size))


def widest(codes: Iterable[str]) -> str:
    """Give the float dtype that holds all of these; two different 16-bit ones need 32."""
    every = set(codes)
    if every == {"F16", "BF16"}:
        return "F32"
    return next((code for code in ("F64", "F32", "F16", "BF16") if code in every), "F32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Trained rows of one embedding in the output."""

    target: str
    indices: tuple[int, ...]
    whole: Whole


def token_rows(named_: Sequence[Named], targets: Collection[str], choice: str) -> Iterator[Rows]:
    """Give the trained token rows, per embedding; the same row in two adapters is a conflict.

    Raises what `wholes` raises.
    """
    groups: dict[str, list[tuple[Named, TokenRows]]] = {}
    for each in named_:
        for rows in each.source.rows:
            groups.setdefault(rows.target, []).append((each, rows))
    for target, group in sorted(groups.items()):
        if target in targets:
            raise Unsupported(
                f"{shown(target)} has trained token rows in {shown(group[0][0].ref)} and is "
                "adapted besides. `adaptertools merge` can do both."
            )
        yield _joined(target, group, choice)


def _joined(target: str, group: Sequence[tuple[Named, TokenRows]], choice: str) -> Rows:
    """Put rows together, in the order of their tokens, each settled as a saved tensor is."""
    held: dict[int, list[Held]] = {}
    for each, rows in group:
        size = rows.spec.nbytes // max(rows.spec.rows, 1)
        for at, index in enumerate(rows.indices):
            start = rows.spec.start + at * size
            part = rows.spec._replace(shape=rows.spec.shape[1:], start=start, stop=start + size)
            held.setdefault(index, []).append(Held(each, part))
    indices = tuple(sorted(held))
    lines = [_settled(f"{target}[{i}]", "", held[i], "rows", choice) for i in indices]
    dtype = widest(line.dtype for line in lines)

    def make() -> Iterator[Array]:
        for line in lines:
            yield from (piece.astype(dtype_of(dtype)) for piece in line.make())

    whole = Whole(
        name=rows_key(target), dtype=dtype, shape=(len(lines), *lines[0].shape), make=make,
        told=first(dict.fromkeys(line.told for line in lines)),
    )  # fmt: skip
    return Rows(target=target, indices=indices, whole=whole)


def listed_rows(rows: Sequence[Rows], named_: Sequence[Named]) -> Any:
    """Give `trainable_token_indices` for the config: a list where all sources have one."""
    if not rows:
        return None
    said = [n.adapter.config.get("trainable_token_indices") for n in named_ if n.source.rows]
    if len(rows) == 1 and all(isinstance(each, list) for each in said):
        return list(rows[0].indices)
    found: Mapping[str, list[int]] = {each.target: list(each.indices) for each in rows}
    return found
