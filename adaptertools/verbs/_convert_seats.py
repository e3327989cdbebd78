"""The base beside an adapter: what each method is asked with, and the weight that it changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from adaptertools import checkpoint, tensorfile
from adaptertools.adapter import Adapter, Entry, Site
from adaptertools.errors import Mismatch, Unreadable, Unsupported, shown
from adaptertools.layouts import known
from adaptertools.layouts.converted import layout
from adaptertools.layouts.direct import Names
from adaptertools.layouts.pieces import Piece
from adaptertools.methods import Method
from adaptertools.tensorfile import dtype_of
from adaptertools.unpacked import decoded
from adaptertools.update import Update, change
from adaptertools.verbs import _config
from adaptertools.verbs._claims import claims
from adaptertools.verbs._drafts import Assembly, Draft
from adaptertools.verbs._entries import check_roles, method_of, seat
from adaptertools.verbs._module_order import module_order
from adaptertools.verbs._quantise import recognise
from adaptertools.verbs._spread import spread

if TYPE_CHECKING:
    from adaptertools.update import Array

_HEADS = ("lm_head", "embed_out", "output_projection", "output")


class Held:
    """A weight that is in memory; the `Base` that updates see. In float64."""

    dtype = "float64"

    def __init__(self, values: Array, code: str) -> None:
        """Take it as it is stored, (rows, columns), and the stored dtype."""
        self.values, self.code = values, code
        self.shape: tuple[int, int] = (values.shape[0], values.shape[1])

    def tiles(self) -> Iterator[tuple[int, Array]]:
        """Give it as one tile."""
        yield 0, self.values

    def stored(self, values: Array) -> Array:
        """Round values as storing them would."""
        return values.astype(dtype_of(self.code))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One module: its site, and where the base holds its weight and its bias."""

    site: Site
    drafts: dict[str, Draft]
    weight: tuple[Piece, ...]
    bias: tuple[Piece, ...]
    updates: tuple[Update, ...]
    bias_updates: tuple[Update, ...]

    @property
    def entry(self) -> Entry:
        """What the adapter stores for it."""
        return self.site.entry

    @property
    def embedding(self) -> bool:
        """Whether it is one of tokens, whose factors lie the other way round."""
        last = self.entry.target.rpartition(".")[2]
        told = any("_embedding_" in role for role in self.entry.parts)
        return told or (_config.embedding(last) and last not in _HEADS)

    @property
    def axes(self) -> tuple[int, ...]:
        """The weight's axes as nn.Linear has them, a convolution's with its kernel."""
        return self.site.shape if self.site.transposed else self.site.weight.shape

    def base(self, *, bias: bool = False) -> Held:
        """Read the weight, or the bias as one column; raise Unreadable for NaN and infinity."""
        import numpy as np

        spec = (self.site.bias if bias else None) or self.site.weight
        values = np.zeros((spec.rows, spec.columns))
        for piece in self.bias if bias else self.weight:
            _fill(values, _read(self.drafts[piece.tensor]), piece)
        if not np.isfinite(values).all():
            raise Unreadable(
                f"The base's {shown(spec.name)} holds NaN or infinity, so that nothing can be told "
                "of a change of it. Pass the base that the adapter was trained on."
            )
        return Held(values, spec.dtype)

    def change(self, base: Held, *, bias: bool = False) -> Array:
        """Give update(W) − W in float64, (rows, columns) as it is stored."""
        import numpy as np

        moved = base.values.copy()
        with np.errstate(all="ignore"):
            opened = [u.open(base) for u in (self.bias_updates if bias else self.updates)]
            change(opened, moved, base.values, 0)
        moved -= base.values
        if not np.isfinite(moved).all():
            raise Unreadable(
                f"{shown(self.entry.target)}: the update holds NaN or infinity. The training "
                "diverged, or the base is another one."
            )
        return moved


def seats(adapter: Adapter, base: Path) -> tuple[Adapter, list[Seat]]:
    """Find the base's weight for every module; give the adapter with all modules named, and them.

    Headers are read, and no weights. Raises Mismatch where adapter and base do not fit, Unsupported
    and UnknownMethod for what no fixed change of weights stands for.
    """
    method = method_of(adapter)
    method.check(adapter.config)
    it, names = _opened(base)
    adapter = spread(adapter, names, it.order)
    for item in adapter.saved:
        if not item.own and (tensor := names.tensor(item.name)):
            it.drafts[tensor] = replace(it.drafts[tensor], source=item.spec, packed=None)
    only = replace(adapter, saved=(), rows=())
    found = []
    for claim in claims(only, 1.0, names, {}, (), changed=False):
        assert isinstance(claim.item, Entry)
        site, weight, bias = seat(it, claim, claim.item, names, None)
        found.append(
            Seat(
                site=site, drafts=it.drafts, weight=weight, bias=bias,
                updates=tuple(method.updates(site)), bias_updates=tuple(method.bias_updates(site)),
            )
        )  # fmt: skip
        _check(found[-1], method)
    check_roles(method, adapter.shared)
    return adapter, found


def _check(made: Seat, method: Method) -> None:
    check_roles(method, made.entry.parts)
    want = (made.site.weight.rows, made.site.weight.columns)
    for shape in (update.shape for update in made.updates):
        if shape is not None and shape != want:
            raise Mismatch(
                f"{shown(made.entry.target)}: the update is {list(shape)}, the weight is "
                f"{list(want)}. Pass the base that it was trained on as --base."
            )


def _opened(base: Path) -> tuple[Assembly, Names]:
    if not base.is_dir():
        raise Unsupported(
            f"{shown(base)} is no folder with a model's weights, and this update depends on them. "
            "Pass the model's folder as --base."
        )
    held = checkpoint.read(base, str(base))
    packed = recognise(held) if held.config.get("quantization_config") else {}
    it = Assembly({}, dict(held.config), [])
    for shard, header in held.shards.items():
        for name, spec in header.tensors.items():
            each = packed.get(name)
            spec = each.logical() if each else spec
            it.drafts[name] = Draft(spec, spec.dtype, shard, packed=each)
    kind = next(iter(held.config.get("architectures") or ()), "")
    tensors = {name: draft.source for name, draft in it.drafts.items()}
    names = Names(
        it.drafts, known.prefix(held.config), cache(partial(layout, held.config, tensors))
    )  # fmt: skip
    for alias, source in known.ties(held.config, kind).items():
        if alias not in it.drafts and (tensor := names.tensor(source)):
            it.drafts[alias] = it.drafts[tensor]
    it.order = partial(module_order, held.config, kind)
    return it, names


def _read(draft: Draft) -> Array:
    """Read a tensor of the base, unpacked, with the axes that it is stored with."""
    import numpy as np

    if draft.packed is None:
        return tensorfile.read(draft.source)
    rows: Sequence[Array] = [tile.copy() for _, tile in decoded(draft.packed)]
    return np.concatenate(rows).reshape(draft.shape)


def _fill(out: Array, stored: Array, piece: Piece) -> None:
    """Put what a piece holds where it belongs in the model's weight."""
    if piece.held is not None:
        stored = stored if piece.held.index is None else stored[piece.held.index]
        stored = stored.reshape(len(stored), -1)
        stored = stored[slice(*piece.held.rows), slice(*piece.held.columns)]
    if piece.turned:
        stored = stored.swapaxes(-1, -2)
    if piece.order:
        stored = stored[list(piece.order)]
    if piece.model is None:
        out[:] = stored.reshape(out.shape)
    else:
        out[slice(*piece.model.rows), slice(*piece.model.columns)] = stored
