"""The nearest LoRA of a rank is as near as numpy's dense SVD of PEFT's own update is."""

from pathlib import Path

import numpy as np
import pytest
import torch

import adaptertools as at
from tests.as_lora import CASES, RANK, SOME, off, optimum, updates, written

torch.set_num_threads(1)


@pytest.mark.parametrize("name", SOME)
def test_the_nearest_of_a_rank(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.build(tmp_path, torch.float32)
    out, told = tmp_path / "out", []
    report = at.convert(
        tmp_path / "adapter", to="peft", out=out, base=tmp_path / "base", allow_lossy=True,
        rank=RANK, foreseen=told.append,
    )  # fmt: skip
    if "lossy" not in report.facts:
        ranks = {entry.rank for entry in at.open(out).entries}
        assert max(ranks) <= RANK, "more was kept than was asked for"
        return
    lossy = report.facts["lossy"]
    assert told == [lossy]
    theirs, ours = updates(case, tmp_path), written(case, tmp_path, out)
    square = lost = 0.0
    for tensor, change in theirs.items():
        if change.ndim == 1:  # a bias that is saved whole
            assert off(ours[tensor], change) <= 1e-6
            continue
        module = tensor.removesuffix(".weight")
        said = next((m for m in lossy["modules"] if m["target"].endswith(module)), None)
        least = optimum(change, RANK)
        tolerance = max(10 * (case.tolerance or 0), 2e-6)
        assert off(ours[tensor], change) == pytest.approx(least, abs=tolerance)
        if said is not None:
            assert said["rank"] == RANK
            assert said["error"] == pytest.approx(least, abs=tolerance)
        size = float(np.linalg.norm(change))
        square, lost = square + size**2, lost + (least * size) ** 2 * (said is not None)
    assert lossy["error"] == pytest.approx((lost / square) ** 0.5, abs=1e-5)
