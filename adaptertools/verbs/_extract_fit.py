"""Hold a fine-tuned model against its base: which tensors belong together, and what each is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adaptertools.checkpoint import Checkpoint
from adaptertools.errors import Mismatch, Unsupported, first, shown
from adaptertools.layouts import known
from adaptertools.layouts.direct import Names
from adaptertools.layouts.roles import Role, roles
from adaptertools.tensorfile import FLOATS, TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """One tensor of the fine-tuned model and what it was in the base."""

    role: Role  # named as PEFT's model names it
    tuned: TensorSpec
    base: TensorSpec | None  # None for what the base lacks, such as a new head


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Two checkpoints of one architecture, tensor by tensor."""

    twins: tuple[Twin, ...]
    left: tuple[str, ...]  # heads of the base that the fine-tuned model has not


def fit(base: Checkpoint, tuned: Checkpoint) -> Fit:
    """Pair the tensors of two checkpoints; nothing is read.

    Raises Mismatch where types, names or shapes differ, Unsupported for packed weights.
    """
    for each in (base, tuned):
        if each.config.get("quantization_config"):
            raise Unsupported(
                f"{shown(each.ref)} is packed ({first(_how(each))}), and the difference to packed "
                "weights is mostly packing. Give the 16- or 32-bit model."
            )
    if base.model_type != tuned.model_type:
        raise Mismatch(
            f"{shown(base.ref)} is of type {shown(base.model_type) or '(none)'} and "
            f"{shown(tuned.ref)} of type {shown(tuned.model_type) or '(none)'}. Only a fine-tune "
            "of that very base has a difference to it; give its own base."
        )
    olds, news = _named(base), _named(tuned)
    names = Names(olds, known.prefix(tuned.config))
    twins, used, fresh = [], set(), []
    for name, (role, spec) in news.items():
        found = names.tensor(name)
        if found is None:
            fresh.append(name)
        else:
            used.add(found)
        old = olds[found][1] if found else None
        twins.append(Twin(role=role, tuned=spec, base=old))
    left = [name for name in olds if name not in used]
    _check_names(base, tuned, fresh, left)
    _check_tensors(base, tuned, twins)
    return Fit(twins=tuple(twins), left=tuple(left))


def _how(each: Checkpoint) -> list[str]:
    return [str(each.config["quantization_config"].get("quant_method", "unknown"))]


def _named(held: Checkpoint) -> dict[str, tuple[Role, TensorSpec]]:
    """Give all tensors by their names in the model, and tied ones under each of their names."""
    tensors = held.tensors
    said = {role.name: (role, tensors[name]) for name, role in roles(held.config, tensors).items()}
    return said | dict(_aliases(held, said))


def _aliases(
    held: Checkpoint, said: Mapping[str, tuple[Role, TensorSpec]]
) -> Iterator[tuple[str, tuple[Role, TensorSpec]]]:
    """Give tied tensors that are not written out: in the model each module has its own name."""
    name = _class(held)
    for alias, source in known.ties(held.config, name).items():
        if alias not in said and source in said:
            yield alias, (Role(name=alias, kind="whole"), said[source][1])


def _class(held: Checkpoint) -> str:
    return str(next(iter(held.config.get("architectures") or ()), ""))


def _check_names(base: Checkpoint, tuned: Checkpoint, fresh: list[str], left: list[str]) -> None:
    """Refuse tensors of one model that the other lacks, but for heads of another class."""
    other = _class(base) != _class(tuned)
    prefix = known.prefix(tuned.config) + "."
    for ref, lacks, names in ((tuned.ref, base.ref, fresh), (base.ref, tuned.ref, left)):
        if odd := [n for n in names if not other or n.startswith(prefix)]:
            raise Mismatch(
                f"{shown(ref)} has {len(odd)} tensors that {shown(lacks)} has not: "
                f"{first(odd, 3)}. They are no base and fine-tune of one architecture; "
                "give the fine-tune's own base."
            )


def _check_tensors(base: Checkpoint, tuned: Checkpoint, twins: list[Twin]) -> None:
    for twin in twins:
        if twin.base is not None and twin.base.shape != twin.tuned.shape:
            raise Mismatch(
                f"{shown(twin.role.name)} is {list(twin.base.shape)} in {shown(base.ref)} and "
                f"{list(twin.tuned.shape)} in {shown(tuned.ref)}. An adapter cannot change a "
                "shape; where the vocabulary was resized, resize the base's and save it first."
            )
        for spec in (twin.tuned, twin.base):
            if spec is not None and spec.dtype not in FLOATS and twin.role.kind != "whole":
                raise Unsupported(
                    f"{shown(spec.name)} is stored as {spec.dtype}; a float was expected. "
                    "Give the 16- or 32-bit model."
                )
