"""The probe: blind to rounding, whatever the numbers are like, and to nothing else."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import adaptertools as at
from adaptertools import probe, probe_rows, probe_values
from adaptertools.jobs import Edit
from adaptertools.tensorfile import TensorSpec, read_header
from adaptertools.update import Base, Opened
from tests import tiny_llama as tiny

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
NAME = "model.layers.0.mlp.up_proj"


def stored(path: Path, tensor: torch.Tensor) -> TensorSpec:
    """Write one tensor to a file; gives where it lies."""
    save_file({f"{NAME}.weight": tensor.contiguous()}, path)
    return read_header(path).tensors[f"{NAME}.weight"]


def edit(folder: Path, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Edit:
    """Plan W + B·A."""
    base = tiny.save_base(folder / "base", {f"{NAME}.weight": weight})
    adapter = tiny.save_lora(folder / "adapter", base, {NAME: (a, b)})
    return at.plan(adapter, base=base, out=folder / "out").edits[0]


def rounded(source: TensorSpec) -> Edit:
    """Plan a change of dtype alone."""
    return Edit(name=source.name, dtype="BF16", source=source)


def judge(folder: Path, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> str:
    """Let the probe judge W + B·A, exact but for the one rounding."""
    exact = weight.double() + b.double() @ a.double()
    planned = edit(folder, weight, a, b)
    return probe.applied(planned, stored(folder / "written.safetensors", exact.to(weight.dtype)))


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    """A new folder each time."""
    return (tmp_path / str(i) for i in range(1000))  # type: ignore[return-value]


SHAPES = [(1, 1), (1, 64), (64, 1), (2, 3), (8, 8), (40, 24), (128, 96)]


@every_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rounding_alone_is_never_a_fault(
    shape: tuple[int, int], dtype: torch.dtype, folders: Iterator[Path]
) -> None:
    for seed in range(12):
        weight = tiny.noise(*shape, seed=seed).to(dtype)
        a, b = tiny.noise(2, shape[1], seed=seed + 50), tiny.noise(shape[0], 2, seed=seed + 90)
        assert judge(next(folders), weight, a, b * 10 ** (seed / 2 - 4)) == ""


HARD = {
    "zero weight": lambda w: w * 0,
    "zero rows": lambda w: w * (torch.arange(len(w)) % 2)[:, None],
    "one large element": lambda w: w.index_put(
        (torch.tensor(3), torch.tensor(4)), torch.tensor(3e4)
    ),
    "rows of all sizes": lambda w: w * torch.logspace(-4, 4, len(w))[:, None],
    "columns of all sizes": lambda w: w * torch.logspace(-4, 4, w.shape[1]),
    "subnormal": lambda w: w * 1e-7,
    "constant": lambda w: w * 0 + 1 / 3,
}


@every_dtype
@pytest.mark.parametrize("change", HARD.values(), ids=HARD)
def test_hard_numbers_are_no_fault(
    change: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype, folders: Iterator[Path]
) -> None:
    for seed in range(4):
        weight = change(tiny.noise(24, 40, seed=seed)).to(dtype)
        a, b = tiny.noise(3, 40, seed=seed + 50), tiny.noise(24, 3, seed=seed + 90)
        for size in (1e-9, 1e-4, 1, 30):
            assert judge(next(folders), weight, a, b * size) == ""


@every_dtype
def test_an_update_that_cancels_the_weight_is_no_fault(dtype: torch.dtype, tmp_path: Path) -> None:
    a, b = tiny.noise(2, 40, seed=0), tiny.noise(24, 2, seed=1)
    weight = (b.double() @ a.double()).to(dtype)
    assert judge(tmp_path, weight, a, -b) == ""


@every_dtype
@pytest.mark.parametrize("factor", [0, 0.5, 2, -1])
def test_a_wrong_amount_is_a_fault(factor: float, dtype: torch.dtype, tmp_path: Path) -> None:
    weight = tiny.noise(256, 256, seed=0).to(dtype)
    a, b = tiny.noise(4, 256, seed=1), tiny.noise(256, 4, seed=2, size=0.01)
    planned = edit(tmp_path, weight, a, b)
    wrong = (weight.double() + factor * (b.double() @ a.double())).to(dtype)
    assert probe.applied(planned, stored(tmp_path / "wrong.safetensors", wrong))


@every_dtype
def test_one_wrong_row_is_a_fault(dtype: torch.dtype, tmp_path: Path) -> None:
    weight = tiny.noise(256, 256, seed=0).to(dtype)
    a, b = tiny.noise(4, 256, seed=1), tiny.noise(256, 4, seed=2, size=0.1)
    planned = edit(tmp_path, weight, a, b)
    wrong = (weight.double() + b.double() @ a.double()).to(dtype)
    wrong[77] = weight[77]
    assert "times the rounding" in probe.applied(
        planned, stored(tmp_path / "wrong.safetensors", wrong)
    )


def test_rounding_twice_too_coarsely_is_a_fault(tmp_path: Path) -> None:
    weight = tiny.noise(64, 64, seed=0)
    a, b = tiny.noise(4, 64, seed=1), tiny.noise(64, 4, seed=2)
    planned = edit(tmp_path, weight, a, b)
    coarse = (weight.double() + b.double() @ a.double()).bfloat16().float()
    assert probe.applied(planned, stored(tmp_path / "coarse.safetensors", coarse))


def test_two_bits_that_were_lost_everywhere_are_a_fault(tmp_path: Path) -> None:
    weight = tiny.noise(256, 256, seed=0).bfloat16()
    a, b = tiny.noise(4, 256, seed=1), tiny.noise(256, 4, seed=2, size=0.1)
    planned = edit(tmp_path, weight, a, b)
    right = (weight.double() + b.double() @ a.double()).bfloat16()
    coarse = ((right.view(torch.int16) + 2) & ~3).view(torch.bfloat16)
    assert "scatters" in probe.applied(planned, stored(tmp_path / "coarse.safetensors", coarse))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_is_not_finite_is_a_fault(value: float, tmp_path: Path) -> None:
    weight = tiny.noise(8, 8, seed=0)
    a, b = tiny.noise(2, 8, seed=1), tiny.noise(8, 2, seed=2)
    planned = edit(tmp_path, weight, a, b)
    wrong = weight + b @ a
    wrong[2, 2] = value
    assert "NaN or infinity" in probe.applied(
        planned, stored(tmp_path / "wrong.safetensors", wrong)
    )


def test_the_same_probes_are_used_each_time(tmp_path: Path) -> None:
    weight = tiny.noise(32, 32, seed=0).bfloat16()
    a, b = tiny.noise(2, 32, seed=1), tiny.noise(32, 2, seed=2)
    planned = edit(tmp_path, weight, a, b)
    written = stored(tmp_path / "wrong.safetensors", weight)
    assert probe.applied(planned, written) == probe.applied(planned, written) != ""


def test_large_weights_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_rows, "ROWS", 100)
    assert judge(tmp_path, tiny.noise(31, 24, seed=0), tiny.noise(3, 24, seed=1),
                 tiny.noise(31, 3, seed=2)) == ""  # fmt: skip


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_conversion_is_checked_element_by_element(narrow: torch.dtype, tmp_path: Path) -> None:
    tensor = tiny.noise(13, 7, seed=0) * torch.logspace(-6, 3, 13)[:, None]
    tensor[0, 0] = torch.nan
    source = stored(tmp_path / "source.safetensors", tensor)
    right = tensor.to(narrow)
    assert probe.converted(rounded(source), stored(tmp_path / "right.safetensors", right)) == ""
    right[9, 3] = torch.nextafter(right[9, 3], torch.tensor(torch.inf, dtype=narrow))
    right[9, 3] = torch.nextafter(right[9, 3], torch.tensor(torch.inf, dtype=narrow))
    assert probe.converted(rounded(source), stored(tmp_path / "wrong.safetensors", right))


def test_a_conversion_that_makes_a_nan_is_a_fault(tmp_path: Path) -> None:
    tensor = tiny.noise(5, 7, seed=0)
    source = stored(tmp_path / "source.safetensors", tensor)
    wrong = tensor.bfloat16()
    wrong[3, 3] = torch.nan
    assert probe.converted(rounded(source), stored(tmp_path / "wrong.safetensors", wrong))


class Tripled:
    """An update that the probe has no algebra for: three times what the weight is by then."""

    shape, additive = None, False

    def open(self, base: Base) -> Opened:
        assert base.dtype == "float64"
        whole = np.concatenate([tile.copy() for _, tile in base.tiles()])

        def step(tile: Any, original: Any, row: int) -> None:
            assert np.array_equal(tile if original is None else original, whole[row:][: len(tile)])
            tile *= 3

        return Opened(step)

    def describe(self) -> Mapping[str, object]:
        return {}


@pytest.mark.parametrize("rows", [7, 1 << 20])
def test_an_update_without_algebra_is_computed_again(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_rows, "ROWS", rows)
    weight = tiny.noise(12, 6, seed=1)
    a, b = tiny.noise(2, 6, seed=2), tiny.noise(12, 2, seed=3)
    planned = edit(tmp_path, weight, a, b)
    other = replace(planned, updates=(*planned.updates, Tripled()))
    right = 3 * (weight.double() + b.double() @ a.double())
    assert probe_values.recomputed(other)
    assert not probe_values.recomputed(planned)
    path = tmp_path / "written.safetensors"
    assert probe.applied(other, stored(path, right.float())) == ""
    for wrong in (right / 3, right * 3, right - weight, right.flip(0)):
        assert probe.applied(other, stored(path, wrong.float())) != ""
