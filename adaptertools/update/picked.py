"""Some rows and columns of a factor, read when they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptertools.update import Matrix, RowMatrix
from adaptertools.update.formed import Form, Rows
from adaptertools.update.matrices import Turned

if TYPE_CHECKING:
    from adaptertools.update import Array

Places = range | tuple[int, ...]  # a range where they are evenly spaced, else one by one


@dataclass(frozen=True, slots=True)
class Picked:
    """M[rows][:, columns]."""

    matrix: Matrix
    places: tuple[Places, Places]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.places
        return len(rows), len(columns)

    def read(self, dtype: str) -> Array:
        """Load them in this dtype, from a file only their rows where they lie together."""
        import numpy as np

        rows, columns = self.places
        even = isinstance(rows, range) and rows.step == 1 and getattr(self.matrix, "ranged", False)
        if even and isinstance(columns, range) and hasattr(self.matrix, "pick"):
            some: Array = self.matrix.pick(_index(rows), _index(columns), dtype)
            return some
        if even and isinstance(rows, range):
            found = self.matrix.rows(rows.start, rows.stop, dtype)  # type: ignore[attr-defined]
        else:
            found = self.matrix.read(dtype)[_index(rows)]
        return np.array(found[:, _index(columns)], order="C")


class Once:
    """A factor that is read once for all that is picked from it, as long as this lives."""

    ranged = True

    def __init__(self, matrix: Matrix) -> None:
        """Take the factor; nothing is read yet."""
        self.matrix, self.shape = matrix, matrix.shape
        self.kept: dict[str, Array] = {}

    def rows(self, start: int, stop: int, dtype: str) -> Array:
        """Give some rows, not to be changed."""
        if dtype not in self.kept:
            self.kept[dtype] = self.matrix.read(dtype)
        return self.kept[dtype][start:stop]

    def read(self, dtype: str) -> Array:
        """Give a copy of all."""
        return self.rows(0, self.shape[0], dtype).copy()


@dataclass(frozen=True, slots=True)
class PickedRows:
    """M[rows][:, columns] of a matrix that is read by rows, and so is this."""

    matrix: RowMatrix
    places: tuple[range, range]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.places
        return len(rows), len(columns)

    def rows(self, start: int, stop: int, dtype: str) -> Array:
        """Load these rows in this dtype."""
        import numpy as np

        rows, columns = self.places
        found = self.matrix.rows(rows.start + start, rows.start + stop, dtype)
        return np.array(found[:, _index(columns)], order="C")


@dataclass(frozen=True, slots=True)
class PickedForm:
    """Some rows and columns of a matrix that is worked out."""

    matrix: Form
    places: tuple[range, range]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.places[0]), len(self.places[1])

    @property
    def kind(self) -> str:
        """What it is called, as the whole of it."""
        return type(self.matrix).__name__.lower()

    def form(self, dtype: str) -> Rows:
        """Load what it is made of."""
        import numpy as np

        make, (rows, columns) = self.matrix.form(dtype), self.places

        def some(start: int, stop: int) -> Array:
            found = make(rows.start + start, rows.start + stop)
            return np.array(found[:, _index(columns)], order="C")

        return some


def picked(matrix: Matrix, rows: Places | None = None, columns: Places | None = None) -> Matrix:
    """Give M[rows][:, columns], None for all of them; what is picked from picked is one picking."""
    if isinstance(matrix, Turned):
        inner = picked(matrix.matrix, columns, rows)
        return matrix if inner is matrix.matrix else Turned(inner)
    if isinstance(matrix, Picked):
        places = (_of(matrix.places[0], rows), _of(matrix.places[1], columns))
        return Picked(matrix.matrix, places)
    whole = (range(matrix.shape[0]), range(matrix.shape[1]))
    places = (_of(whole[0], rows), _of(whole[1], columns))
    return matrix if places == whole else Picked(matrix, places)


def _of(places: Places, some: Places | None) -> Places:
    if some is None:
        return places
    if isinstance(some, range) and some.step > 0:
        return places[some.start : some.stop : some.step]
    return tuple(places[i] for i in some)


def _index(places: Places) -> Any:
    if isinstance(places, range):
        return slice(places.start, places.stop, places.step)
    return list(places)
