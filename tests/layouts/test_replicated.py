"""Layers that PEFT replicates for training, written out: order, names and config."""

import tracemalloc
from typing import Any

import pytest

from adaptertools.errors import Unreadable, Unsupported
from adaptertools.layouts.replicated import depth, order, reconfigure, rename


@pytest.mark.parametrize(
    ("ranges", "count", "layers"),
    [
        ([[0, 2], [1, 3]], 3, [0, 1, 1, 2]),
        ([[0, 4]], 4, [0, 1, 2, 3]),
        ([[2, 3], [0, 1]], 3, [2, 0]),
        ([[0, 1], [1, 1], [0, 1]], 1, [0, 0]),
        (((0, 2),), 2, [0, 1]),
    ],
)
def test_order(ranges: Any, count: int, layers: list[int]) -> None:
    assert order(ranges, count) == layers


BAD: list[Any] = [[], [[0, 0]], [[2, 1]], [[0, 5]], [[-1, 2]], [[0]], [[0, 1, 2]], [0, 2], "x", 5,
                  {"a": 1}, [["a", "b"]], [None], [[0, None]], [[0, float("inf")]]]  # fmt: skip


@pytest.mark.parametrize("ranges", BAD, ids=str)
def test_no_order(ranges: Any) -> None:
    with pytest.raises(Unreadable, match="layer_replication is"):
        order(ranges, 4)


def test_an_endless_order_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable):
            order([[0, 3_000_000]], 4)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_rename_copies_layers_and_keeps_the_rest() -> None:
    names = ["model.layers.0.a.weight", "model.layers.1.a.weight", "model.layers.2.a.weight",
             "model.norm.weight", "lm_head.weight"]  # fmt: skip
    assert rename(names, [0, 1, 1]) == {
        "model.layers.0.a.weight": ["model.layers.0.a.weight"],
        "model.layers.1.a.weight": ["model.layers.1.a.weight", "model.layers.2.a.weight"],
        "model.layers.2.a.weight": [],
        "model.norm.weight": ["model.norm.weight"],
        "lm_head.weight": ["lm_head.weight"],
    }


@pytest.mark.parametrize("stem", ["layers", "model.layers", "transformer.h", "bert.encoder.layer"])
def test_stacks_by_their_name(stem: str) -> None:
    assert rename([f"{stem}.10.x"], [10, 10]) == {f"{stem}.10.x": [f"{stem}.0.x", f"{stem}.1.x"]}


def test_no_new_name_is_given_twice() -> None:
    layers = [0, 1, 1, 0, 2]
    given = rename([f"h.{i}.{part}.weight" for i in range(3) for part in "ab"], layers).values()
    flat = [name for names in given for name in names]
    assert len(flat) == len(set(flat)) == 2 * len(layers)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["encoder.layers.0.x", "decoder.layers.0.x"], r"2 \(decoder\.layers, encoder\.layers\)"),
        (["norm.weight"], "0"),
        (["blocks.0.weight"], "0"),
    ],
)
def test_not_one_stack(names: list[str], said: str) -> None:
    with pytest.raises(Unsupported, match=f"has {said}.*Serve the adapter"):
        rename(names, [0])


def test_reconfigure_follows_depth_and_lists_by_layer() -> None:
    config = {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "eos_token_id": [1, 2, 3],
              "hidden_size": 8, "layer_norm_eps": 1e-5, "short_layer_list": [1]}  # fmt: skip
    assert reconfigure(config, [2, 0, 0, 1]) == {
        **config,
        "num_hidden_layers": 4,
        "layer_types": ["c", "a", "a", "b"],
    }
    assert config["num_hidden_layers"] == 3


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_layers"])
def test_depth(key: str) -> None:
    assert depth({key: 12}) == (key, 12)


@pytest.mark.parametrize("config", [{}, {"num_hidden_layers": "12"}, {"num_hidden_layers": None}])
def test_no_depth(config: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="does not say how many layers"):
        depth(config)
