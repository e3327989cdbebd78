"""Each operation that transformers converts with, on planned tensors and on random ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import core_model_loading as loading
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    ErnieFuseAndSplitTextVisionExperts,
    Interleave,
    LinearToConv3d,
    MergeModulelist,
    PermuteForRope,
    Split,
    SplitModulelist,
    Transpose,
    WeightConverter,
)

from adaptertools.layouts._blocks import Untraceable
from adaptertools.layouts._cut import pieces
from adaptertools.layouts._planned import blocks, planned
from adaptertools.layouts.pieces import Piece

from .rebuilt import rebuilt

torch.set_num_threads(1)

CONFIG = SimpleNamespace(
    num_attention_heads=2, parts=3, vision_config=SimpleNamespace(num_attention_heads=3)
)
CONFIG.get_text_config = lambda: CONFIG
Shape = tuple[int, ...]


class Sized:
    """A model of which only the shapes of q, k and v are asked."""

    def get_parameter(self, name: str) -> torch.Tensor:
        sizes = {"q": 8, "k": 4, "v": 2}
        return torch.empty(sizes[name[-1]], 7) if name[-1] in sizes else torch.empty(5, 7)


def tensors(sources: dict[str, Shape]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in sources.items()}


def run(
    operations: list[Any], targets: list[str], patterns: dict[str, str], values: dict[str, Any]
) -> dict[str, Any]:
    """Convert as transformers does; patterns: of each tensor."""
    converter = WeightConverter([*dict.fromkeys(patterns.values())], targets, operations)
    for name, value in values.items():
        converter.add_tensor(targets[0], name, patterns[name], value)
    made = converter.convert(targets[0], model=Sized(), config=CONFIG)
    return {n: v[0] if isinstance(v, list) else v for n, v in made.items()}


def cut(value: Any, stored: dict[str, torch.Tensor]) -> list[Piece]:
    shape = tuple(value.shape)
    return [p for b in blocks(value) for p in pieces(b, shape, tuple(stored[b.tensor].shape))]


ONE = {"w": "w"}
EXPERTS = {f"{n}.{e}": f"{n}.*" for n in ("gate", "up") for e in range(3)}
ROWS = {
    "chunk": ([Chunk(0)], ["q", "k", "v"], ONE, (12, 7)),
    "chunk, the last is smaller": ([Chunk(0)], ["q", "k", "v"], ONE, (11, 7)),
    "chunk columns": ([Chunk(1)], ["q", "k"], ONE, (5, 8)),
    "chunk of a vector": ([Chunk(0)], ["q", "k"], ONE, (8,)),
    "chunk of matrices": ([Chunk(1)], ["gate", "up"], ONE, (3, 8, 5)),
    "chunk of a kernel": ([Chunk(0)], ["q", "k"], ONE, (8, 3, 2, 2)),
    "chunk as the config says": ([Chunk(0, "parts")], ["part.*"], ONE, (6, 5)),
    "split": ([Split(0)], ["q", "k", "v"], ONE, (14, 7)),
    "split off": ([SplitModulelist(0)], ["e.*"], ONE, (3, 5, 7)),
    "split off vectors": ([SplitModulelist(0)], ["e.*"], ONE, (3, 5)),
    "concatenate": ([Concatenate(0)], ["qkv"], {"q": "q", "k": "k"}, (4, 5)),
    "concatenate columns": ([Concatenate(1)], ["qkv"], {"q": "q", "k": "k"}, (4, 5)),
    "concatenate vectors": ([Concatenate(0)], ["qkv"], {"q": "q", "k": "k"}, (4,)),
    "concatenate matrices": ([Concatenate(0)], ["e"], {"q": "q", "k": "k"}, (3, 4, 5)),
    "chunk of experts": ([Chunk(0)], ["text", "vision"], ONE, (4, 3, 5)),
    "merge": ([MergeModulelist(0)], ["down"], {"d.0": "d.*", "d.1": "d.*"}, (4, 5)),
    "merge vectors": ([MergeModulelist(0)], ["down"], {"d.0": "d.*", "d.1": "d.*"}, (4,)),
    "merge a single one": ([MergeModulelist(0)], ["down"], {"d.0": "d.*"}, (4, 5)),
    "merge, concatenate": ([MergeModulelist(0), Concatenate(1)], ["gate_up"], EXPERTS, (4, 5)),
    "merge, concatenate, transpose": (
        [MergeModulelist(0), Concatenate(1), Transpose(1, 2)], ["gate_up"], EXPERTS, (4, 5),
    ),
    "merge vectors, concatenate": (
        [MergeModulelist(0), Concatenate(1)], ["gate_up"], EXPERTS, (4,),
    ),
    "transpose": ([Transpose(0, 1)], ["w"], ONE, (4, 5)),
    "transpose matrices": ([Transpose(1, 2)], ["w"], ONE, (3, 4, 5)),
    "transpose if it is to be": ([Transpose(0, 1, check_dims=True)], ["w"], ONE, (7, 5)),
    "no transpose if it is not": ([Transpose(0, 1, check_dims=True)], ["w"], ONE, (5, 7)),
    "chunk, transpose": ([Transpose(0, 1), Chunk(0)], ["q", "k"], ONE, (5, 8)),
    "rope": ([PermuteForRope()], ["q"], ONE, (8, 5)),
    "rope back": ([PermuteForRope(inverse=True)], ["q"], ONE, (12, 5)),
    "rope of a vector": ([PermuteForRope()], ["q"], ONE, (12,)),
    "rope of a part of the config": ([PermuteForRope("vision_config")], ["q"], ONE, (12, 5)),
    "chunk, rope": (
        [Chunk(0), PermuteForRope(permute_layer_names=["q", "k"])], ["q", "k", "v"], ONE, (24, 5),
    ),
    "rope back, concatenate": (
        [PermuteForRope(permute_layer_names=["q"], inverse=True), Concatenate(0)],
        ["qkv"], {"q": "q", "k": "k"}, (8, 5),
    ),
    "interleave": ([Interleave(0)], ["w"], ONE, (8, 5)),
    "interleave matrices": ([Interleave(1)], ["w"], ONE, (3, 8, 5)),
    "interleave back": ([Interleave(1, inverse=True)], ["w"], ONE, (3, 8, 5)),
    "interleave, chunk": ([Interleave(0), Chunk(0)], ["gate", "up"], ONE, (8, 5)),
    "interleave, chunk matrices": ([Interleave(1), Chunk(1)], ["gate", "up"], ONE, (2, 8, 5)),
    "ernie": (
        [ErnieFuseAndSplitTextVisionExperts()], ["text", "vision"],
        {f"{n}.{e}": f"{n}.*" for n in ("gate", "up") for e in range(4)}, (4, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_pieces_are_what_the_operations_make(name: str) -> None:
    operations, targets, patterns, shape = ROWS[name]
    stored = tensors(dict.fromkeys(patterns, shape))
    wanted = run(operations, targets, patterns, dict(stored))
    symbols = {n: planned(n, t.shape) for n, t in stored.items()}
    found = run(operations, targets, patterns, symbols)
    assert found.keys() == wanted.keys()
    seen = set()
    for target, value in wanted.items():
        parts = cut(found[target], stored)
        assert torch.equal(rebuilt(parts, stored, value.shape), value), target
        seen |= {piece.tensor for piece in parts}
    assert seen == stored.keys()


def test_every_operation_of_the_tables_is_tried() -> None:
    """Of those that transformers has for its models, without what quantisers add."""
    from transformers.conversion_mapping import _build_checkpoint_conversion_mapping

    tables = _build_checkpoint_conversion_mapping().values()
    used = {
        type(op)
        for table in tables
        for each in table
        for op in getattr(each, "operations", ())
        if type(op).__module__ == loading.__name__
    }
    assert used <= {type(op) for operations, *_ in ROWS.values() for op in operations}


@pytest.mark.parametrize(
    ("operation", "shape"),
    [
        (LinearToConv3d(2, (1, 2, 2)), (4, 8)),  # a kernel that is split is no block of a matrix
        (Transpose(0, 1), (2, 3, 4)),
        (Transpose(0, 2), (2, 3, 4)),
        (Interleave(1), (4, 8)),  # columns that change places
    ],
    ids=["reshape", "first two axes", "first and last", "columns"],
)
def test_what_boxes_cannot_say_is_not_traced(operation: Any, shape: Shape) -> None:
    stored = tensors({"w": shape})
    with pytest.raises(Untraceable):
        cut(run([operation], ["w"], ONE, {"w": planned("w", shape)})["w"], stored)


def test_functions_that_are_not_known_are_not_traced() -> None:
    one = planned("w", (4, 4))
    for made in (lambda: one * 2, lambda: one.flip(0), lambda: one[0], lambda: one.T):
        with pytest.raises(Untraceable):
            made()
    assert (one.shape, one.ndim, one.size(0)) == ((4, 4), 2, 4)
