"""Blocks of updates, in blocks of tensors: what cannot be cut is refused, never left uncut."""

from pathlib import Path

import pytest

from adaptertools.adapter import Factor
from adaptertools.errors import Unsupported
from adaptertools.layouts.pieces import Box, Piece
from adaptertools.tensorfile import TensorSpec
from adaptertools.update.experts import Experts
from adaptertools.verbs._blocks import put
from adaptertools.verbs._drafts import Draft


def spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, "F32", shape, str(Path("nowhere")), 0, 0)


@pytest.mark.parametrize(
    "piece",
    [
        Piece(tensor="x.w13", order=(0, 2, 1, 3)),
        Piece(tensor="x.w13", model=Box((0, 2), (0, 6))),
    ],
)
def test_experts_in_another_order_are_refused(piece: Piece) -> None:
    factors = Factor(spec("B", 4, 6)), Factor(spec("A", 6, 6))
    update = Experts(*factors, 3, 2, 1.0, rank_major=True, turned=False)
    draft = Draft(spec("x.w13", 3, 4, 6), "F32", "model.safetensors")
    with pytest.raises(Unsupported, match="another order") as error:
        put(draft, piece, [update])
    assert error.value.__notes__ == ["The base's tensor is x.w13."]
    assert not draft.updates
