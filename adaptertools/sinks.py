"""Where the tiles of a changed weight go: plain, on the grid that it came from, on a fresh one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from adaptertools.errors import Unsupported, shown
from adaptertools.grid import grid
from adaptertools.jobs import Edit
from adaptertools.packing import CODES, Writer
from adaptertools.requantise import Dice, Feedback, Rounder, inverted
from adaptertools.retention import Compared
from adaptertools.rounding import narrow
from adaptertools.scales import NEAREST, fitted
from adaptertools.tensorfile import BITS, dtype_of
from adaptertools.tiles import write

if TYPE_CHECKING:
    from adaptertools.update import Array

Spread = Callable[[int, int], "Array"]  # first row, rows -> the scale of every element


class Piece(NamedTuple):
    """One tile of a weight: as it was, as it is meant to be, and the codes that it had."""

    row: int
    before: Array
    after: Array
    codes: Array | None


class Sink(Protocol):
    """Takes the tiles of one tensor in order."""

    def begin(self, out: int, places: Mapping[str, int]) -> None:
        """Take the open output file and where each tensor begins in it."""
        ...

    def store(self, piece: Piece, band: int) -> tuple[Compared | None, int]:
        """Write a tile; give what became of its first `band` rows, and the bytes written."""
        ...

    def finish(self) -> int:
        """Write what is only known at the end; give the bytes written."""
        ...


def sink_for(edit: Edit, spread: Spread | None, feedback: Feedback | None, nonfinite: bool) -> Sink:
    """Choose the sink of an edit; `spread` gives the scales of a packed source.

    Storing raises Unsupported for what is not finite, where `nonfinite` does not let it through;
    fresh codes never hold it.
    """
    if edit.repack is None:
        return _Plain(edit, nonfinite)
    if edit.repack.kept:
        assert spread is not None
        return _Kept(edit, spread, _rounder(edit, feedback), nonfinite)
    return _Fresh(edit, _rounder(edit, feedback))


def _rounder(edit: Edit, feedback: Feedback | None) -> Rounder:
    assert edit.repack is not None
    how = edit.repack.rounding
    columns = edit.shape[-1] if len(edit.shape) == 2 else edit.source.columns
    dice = None if how in NEAREST else Dice(edit.name, edit.repack.seed, columns)
    return Rounder(grid(edit.repack.codec.table), how, dice, feedback)


def _nonfinite(edit: Edit, hint: str) -> Unsupported:
    return Unsupported(
        f"{shown(edit.name)}: the merged weight is not finite in {edit.dtype}. Either the base "
        f"holds NaN or infinity, or the sum is out of range. {hint}."
    )


class _File:
    """One output tensor that is written from its start to its end."""

    def __init__(self, edit: Edit) -> None:
        self.edit = edit
        self.out: int | None = None  # nothing is written before `begin`

    def begin(self, out: int, places: Mapping[str, int]) -> None:
        self.out, self.places = out, places
        self.at = places[self.edit.outputs[0].name]

    def put(self, array: Array) -> int:
        if self.out is not None:
            write(self.out, array, self.at)
            self.at += array.nbytes
        return int(array.nbytes)

    def finish(self) -> int:
        return 0


class _Plain(_File):
    """Rounds once to a float dtype."""

    def __init__(self, edit: Edit, nonfinite: bool) -> None:
        super().__init__(edit)
        self.nonfinite = nonfinite

    def store(self, piece: Piece, band: int) -> tuple[Compared | None, int]:
        import numpy as np

        rounded = np.empty(piece.after.shape, dtype_of(self.edit.dtype))
        narrow(piece.after, rounded)
        if not (self.nonfinite or np.isfinite(rounded).all()):
            raise _nonfinite(self.edit, "Choose a wider --dtype, or pass --allow-nonfinite")
        compared = None
        if band:
            before, stored = piece.before[:band], rounded[:band]
            without = np.empty_like(stored)
            narrow(before, without)
            moved = int(np.count_nonzero(stored != without))
            compared = Compared(
                before, piece.after[:band], stored.astype(np.float32), without.astype(np.float32),
                None, moved, 0,
            )  # fmt: skip
        return compared, self.put(rounded)


class _Kept(_File):
    """Rounds on the scales that the weight was stored with, which are not touched."""

    def __init__(self, edit: Edit, spread: Spread, rounder: Rounder, nonfinite: bool) -> None:
        super().__init__(edit)
        assert edit.repack is not None
        self.nonfinite = nonfinite
        self.codec, self.rounder, self.spread = edit.repack.codec, rounder, spread
        self.grid = grid(self.codec.table)

    def store(self, piece: Piece, band: int) -> tuple[Compared | None, int]:
        import numpy as np

        codes = piece.codes
        assert codes is not None
        ranks = self.grid.ranks.take(codes)
        start = self.grid.values.take(ranks)
        spread = self.spread(piece.row, len(codes))
        moved = (piece.after - piece.before).astype(np.float32, copy=False)
        if not np.isfinite(moved).all():
            self._excused(piece)
            moved[~np.isfinite(moved)] = 0
        found = self.rounder.ranks(start, moved, spread, piece.row)
        # A code that keeps its value keeps its bits: zero has two codes, NaN has no value.
        same = (found == ranks) | (ranks < 0)
        made = np.where(same, codes, self.grid.codes.take(found))
        compared = None
        if band:
            scale, some, before = spread[:band], made[:band], piece.before[:band]
            wanted = start[:band] + moved[:band] * inverted(scale, some.shape)
            beyond = int(((wanted > self.grid.high) | (wanted < self.grid.low)).sum())
            close = self.grid.codes.take(self.grid.nearest(wanted))
            compared = Compared(
                before, piece.after[:band], self.codec.decode(some, scale), before,
                self.codec.decode(close, scale), int(np.count_nonzero(~same[:band])), beyond,
            )  # fmt: skip
        return compared, self.put(self.codec.pack(made))

    def _excused(self, piece: Piece) -> None:
        """Refuse what is not finite, unless it was not before: such codes may stay."""
        import numpy as np

        lost = ~np.isfinite(piece.after)
        if lost.any() and not (self.nonfinite and not np.isfinite(piece.before[lost]).any()):
            raise _nonfinite(self.edit, "Packed codes cannot hold that. Merge what is whole")


class _Fresh(_File):
    """Fits new scales, block by block, and rounds on those."""

    def __init__(self, edit: Edit, rounder: Rounder) -> None:
        super().__init__(edit)
        assert edit.repack is not None
        self.codec, self.rounder = cast(Writer, edit.repack.codec), rounder
        self.grid = grid(self.codec.table)
        self.fits: list[Array] = []

    def store(self, piece: Piece, band: int) -> tuple[Compared | None, int]:
        import numpy as np

        tile = self._stored(piece.after)
        fit = fitted(self.codec, tile, self.rounder.rounding)
        if not np.isfinite(fit).all():  # NaN and infinity are the largest of their block
            raise _nonfinite(self.edit, "Choose a wider --dtype")
        self.fits.append(fit)
        made = self._codes(tile, fit, piece.row)
        compared = None
        if band:
            compared = self._compared(piece, made, fit, min(band, len(made)))
        return compared, self.put(self.codec.pack(made))

    def _compared(self, piece: Piece, made: Array, fit: Array, band: int) -> Compared:
        without, columns = piece.before[:band], made.shape[1]
        if piece.codes is None:  # a base that was not packed would have been rounded as well
            plain = self._stored(without)
            own = fitted(self.codec, plain, self.rounder.rounding)
            old = self.codec.spread(own, 0, band, columns)
            without = self.codec.decode(self.codec.nearest(plain, own), old)
        stored = self.codec.decode(made[:band], self.codec.spread(fit, 0, band, columns))
        moved = int((stored != without).sum())
        return Compared(piece.before[:band], piece.after[:band], stored, without, None, moved, 0)

    def _stored(self, values: Array) -> Array:
        """Round to the logical dtype first: loading the 16-bit model in 4 bit does so, too."""
        import numpy as np

        rounded = np.empty(values.shape, dtype_of(self.edit.dtype))
        narrow(values, rounded)
        return rounded.astype(np.float32)

    def _codes(self, tile: Array, fit: Array, row: int) -> Array:
        import numpy as np

        if self.rounder.rounding in NEAREST:
            return self.codec.nearest(tile, fit)
        spread = self.codec.spread(fit, 0, *tile.shape)
        found = self.rounder.ranks(np.zeros_like(tile), tile, spread, row)
        codes: Array = self.grid.codes.take(found)
        return codes

    def finish(self) -> int:
        import numpy as np

        scales = np.concatenate(self.fits) if self.fits else np.zeros(0, np.float32)
        assert self.out is not None
        side = self.codec.side(scales, self.edit.dtype, self.edit.shape)
        written = 0
        for part in self.edit.outputs:
            if part.role != CODES:
                raw = np.frombuffer(side[part.role], np.uint8)
                if raw.nbytes != prod(part.shape) * BITS[part.dtype] // 8:
                    raise AssertionError(f"{part.name}: {raw.nbytes} bytes for {part.shape}")
                write(self.out, raw, self.places[part.name])
                written += int(raw.nbytes)
        return written
