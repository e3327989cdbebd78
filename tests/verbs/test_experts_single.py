"""Single experts' updates as those of the weights that transformers 5 has, against dense ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from adaptertools.adapter import Entry
from adaptertools.errors import Mismatch, Unsupported
from adaptertools.formats._experts_names import expert_names
from adaptertools.tensorfile import TensorSpec
from adaptertools.update.lowrank import LowRank
from adaptertools.verbs._experts_single import join, single

SIZES = expert_names({"model_type": "mixtral", "num_local_experts": 3})
OLD, NEW = "model.layers.0.block_sparse_moe", "model.layers.0.mlp"


@dataclass(frozen=True)
class Held:
    values: Any

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.values.shape
        return rows, columns

    def read(self, dtype: str) -> Any:
        return self.values.astype(dtype)


def adapter(shapes: dict[str, tuple[int, int, int]]) -> tuple[dict[str, Entry], dict[str, LowRank]]:
    """Give random updates: name -> out, in, rank; each of another scale."""
    dice, entries, lows = np.random.default_rng(0), {}, {}
    for at, (name, (rows, columns, rank)) in enumerate(shapes.items()):
        up, down = dice.normal(size=(rows, rank)), dice.normal(size=(rank, columns))
        lows[name] = LowRank(Held(up), Held(down), 0.5 + at)
        parts = {
            role: TensorSpec(role, "F32", (rank, 1), "", 0, 4) for role in ("lora_A", "lora_B")
        }
        entries[name] = Entry(target=name, parts=parts, scale=0.5 + at, rank=rank)
    return entries, lows


def dense(low: LowRank) -> Any:
    product = low.product("float64")
    return product.up @ product.down


def test_parts_are_rows_and_routers_are_weights() -> None:
    assert SIZES
    entries, lows = adapter({
        f"{OLD}.experts.0.w1": (6, 8, 2), f"{OLD}.experts.0.w3": (6, 8, 3),
        f"{OLD}.experts.2.w3": (6, 8, 1), f"{OLD}.experts.1.w2": (8, 6, 2),
        f"{OLD}.gate": (3, 8, 2),
    })  # fmt: skip
    assert all(single(name, SIZES) for name in entries)
    made = join(entries, lows, SIZES)
    zero = np.zeros((6, 8))
    first, third = (dense(lows[f"{OLD}.experts.0.{part}"]) for part in ("w1", "w3"))
    wanted = {
        f"{NEW}.experts.0.gate_up_proj": np.concatenate([first, third]),
        f"{NEW}.experts.2.gate_up_proj": np.concatenate([zero, dense(lows[f"{OLD}.experts.2.w3"])]),
        f"{NEW}.experts.1.down_proj": dense(lows[f"{OLD}.experts.1.w2"]),
        f"{NEW}.gate.weight": dense(lows[f"{OLD}.gate"]),
    }
    assert made.lows.keys() == made.entries.keys() == made.experts.keys() == wanted.keys()
    for name, values in wanted.items():
        assert made.lows[name].shape == values.shape
        np.testing.assert_allclose(dense(made.lows[name]), values, rtol=1e-14, atol=1e-14)
    assert made.lows[f"{NEW}.experts.0.gate_up_proj"].rank == 5
    assert made.experts[f"{NEW}.experts.1.down_proj"].count == 3
    assert made.experts[f"{NEW}.gate.weight"].count == 1
    assert not single("model.layers.0.self_attn.q_proj", SIZES)


def test_what_does_not_fit_the_base() -> None:
    assert SIZES
    with pytest.raises(Mismatch, match="the base has 3 experts"):
        join(*adapter({f"{OLD}.experts.3.w1": (6, 8, 2)}), SIZES)
    with pytest.raises(Mismatch, match="w1 and w3 of expert 0 differ in shape"):
        join(*adapter({f"{OLD}.experts.0.w1": (6, 8, 2), f"{OLD}.experts.0.w3": (6, 7, 2)}), SIZES)
    entries, lows = adapter({f"{OLD}.experts.0.w1": (6, 8, 2)})
    (entry,) = entries.values()
    odd = Entry(
        target=entry.target, parts={**entry.parts, "lora_B.bias": entry.parts["lora_A"]}, scale=1.0,
        rank=2,
    )  # fmt: skip
    with pytest.raises(Unsupported, match=r"has lora_B\.bias, which PEFT has not of fused experts"):
        join({odd.target: odd}, lows, SIZES)
