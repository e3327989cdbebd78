"""How far rounding may move a code: what was rounded lies within, what was damaged lies beyond."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptertools.grid import grid
from adaptertools.probe_reach import strangers
from tests.kit_packed import WEIGHTS, decode4, delta, edit, lora, run

SHAPE = (96, 128)
KINDS = ("nf4", "nf4_double", "fp4")
Array = np.ndarray[Any, np.dtype[Any]]


def case(folder: Path, kind: str, rounding: str, share: float) -> tuple[Any, Array, Array, Array]:
    """A merge: the edit, the weight, its change, and what was stored, in float64."""
    weight = WEIGHTS[kind](folder, SHAPE)
    update = lora(SHAPE, share * float(torch.linalg.norm(weight.values)))
    planned = edit(weight, update, rounding)
    made, _ = run(folder, planned)
    codes = torch.frombuffer(bytearray(made[weight.name]), dtype=torch.uint8).reshape(-1, 1)
    after = decode4(weight.tensors | {weight.name: codes})
    return planned, weight.values.numpy(), delta(update).numpy(), after.double().numpy()


def scales(planned: Any) -> Array:
    """The scale of every element, by the packing."""
    from adaptertools import tensorfile

    side = {r: tensorfile.read(s) for r, s in planned.packed.parts.items() if r != "codes"}
    codec = planned.packed.codec
    found: Array = codec.spread(codec.scales(side, SHAPE), 0, *SHAPE).astype(np.float64)
    return found


def count(made: tuple[Any, Array, Array, Array], after: Array, known: bool = True) -> int:
    planned, before, change, _ = made
    scale = scales(planned)
    return strangers(planned, planned.updates if known else [], before, change, after, scale)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("rounding", ["adapter", "stochastic"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_rounded_is_known(kind: str, rounding: str, share: float, tmp_path: Path) -> None:
    made = case(tmp_path, kind, rounding, share)
    assert count(made, made[3]) == 0
    assert count(made, made[3], known=False) == 0


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("rounding", ["adapter", "stochastic"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_against_the_change_is_a_stranger(
    kind: str, rounding: str, known: bool, tmp_path: Path
) -> None:
    made = case(tmp_path, kind, rounding, 0.01)
    planned, before, change, after = made
    scale, values = scales(planned), grid(planned.packed.codec.table).values.astype(np.float64)
    ranks = np.abs((before / scale)[..., None] - values).argmin(-1)
    back = ranks - np.sign(change).astype(int)
    some = (back >= 0) & (back < len(values)) & (np.abs(change) > 1e-5 * np.abs(before))
    assert some.mean() > 0.8
    damaged = np.where(some, values[np.clip(back, 0, len(values) - 1)] * scale, after)
    assert count(made, damaged, known) == some.sum()


def test_an_element_that_was_left_out_stays(tmp_path: Path) -> None:
    made = case(tmp_path, "nf4", "adapter", 0.01)
    planned, before, change, after = made
    scale, values = scales(planned), grid(planned.packed.codec.table).values.astype(np.float64)
    ranks = np.abs((before / scale)[..., None] - values).argmin(-1)
    small = np.abs(change) < 0.2 * np.sqrt((change**2).mean())
    assert (after[small] == before[small]).mean() > 0.9
    ahead = np.clip(ranks + np.sign(change).astype(int), 0, len(values) - 1)
    damaged = np.where(small, values[ahead] * scale, after)
    # Some lie in rows or columns so small that even this much is carried.
    assert count(made, damaged) > 0.8 * small.sum()
    assert count(made, damaged, known=False) == 0


@pytest.mark.parametrize("share", [0.01, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_two_steps_further_is_a_stranger(kind: str, share: float, tmp_path: Path) -> None:
    """Also along the change: what the errors above it push is known from the file."""
    made = case(tmp_path, kind, "adapter", share)
    planned, _, change, after = made
    scale, values = scales(planned), grid(planned.packed.codec.table).values.astype(np.float64)
    ranks = np.abs((after / scale)[..., None] - values).argmin(-1)
    ahead = ranks + 2 * np.sign(change).astype(int)
    some = (ahead >= 0) & (ahead < len(values))
    some[:-1] = False  # the last row, so that no error above it is another
    assert some.sum() > 60
    damaged = np.where(some, values[np.clip(ahead, 0, len(values) - 1)] * scale, after)
    assert count(made, damaged) == some.sum()
