"""Fused experts on disk, (experts, rows, columns): edited as one matrix, looked at one by one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptertools import probe, probe_values, runner, stacks, tensorfile, tiles
from adaptertools.jobs import Edit, ShardJob
from adaptertools.rounding import Rounding
from adaptertools.tensorfile import TensorSpec, read_header
from adaptertools.update import Update
from adaptertools.update.dora import Dora
from adaptertools.update.experts import Experts
from adaptertools.update.lowrank import LowRank
from adaptertools.update.within import Within
from tests.update.weights import Held, noise, updated

E, R, ROWS, COLUMNS = 5, 2, 12, 8
X = "model.layers.0.mlp.experts.gate_up_proj"
ROUNDOFF = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 2**-24}


def fused(turned: bool = False, rank_major: bool = True, size: float = 1.0) -> Experts:
    out, in_ = (COLUMNS, ROWS) if turned else (ROWS, COLUMNS)
    up, down = noise(1, out, R * E) * size, noise(2, E * R, in_)
    return Experts(Held(up), Held(down), E, R, 0.7, rank_major=rank_major, turned=turned)


def low(rows: int, columns: int, seed: int = 3) -> LowRank:
    return LowRank(Held(noise(seed, rows, R)), Held(noise(seed + 1, R, columns)), 0.5)


def halves(e: int, columns: tuple[int, int] = (0, COLUMNS)) -> list[Update]:
    """Gate and up of one expert, as adapters of the layers before they were fused."""
    start, width = e * ROWS, columns[1] - columns[0]
    return [
        Within(low(ROWS // 2, width, seed=e + at), (start + at, start + at + ROWS // 2), columns)
        for at in (0, ROWS // 2)
    ]


def dora(e: int, columns: tuple[int, int] = (0, COLUMNS)) -> Within:
    width = columns[1] - columns[0]
    inner = Dora(low(ROWS, width), Held(noise(5, 1, ROWS).abs()), by_column=False)
    return Within(inner, (e * ROWS, (e + 1) * ROWS), columns)


UPDATES: dict[str, Sequence[Update]] = {
    "experts": [fused()], "experts turned": [fused(turned=True)],
    "experts by expert": [fused(rank_major=False)],
    "two adapters": [fused(), fused(turned=True)],
    "each by itself": [u for e in range(E) for u in halves(e)],
    "some of them": [*halves(1), *halves(3)], "columns": [*halves(0, (0, 4)), *halves(0, (4, 8))],
    "mixed": [fused(), *halves(2), dora(2), *halves(2)],
    "dora in columns": [fused(), dora(4, (2, 8))],
    "across two": [Within(low(ROWS, COLUMNS), (6, 6 + ROWS), (0, COLUMNS))],
}  # fmt: skip
every_update = pytest.mark.parametrize("name", UPDATES)


def stored(folder: Path, dtype: torch.dtype) -> TensorSpec:
    folder.mkdir(parents=True, exist_ok=True)
    weight = noise(7, E, ROWS, COLUMNS).to(dtype)
    save_file({"before": torch.ones(3), X: weight}, folder / "base.safetensors")
    return read_header(folder / "base.safetensors").tensors[X]


def edit(folder: Path, updates: Sequence[Update], dtype: torch.dtype = torch.bfloat16) -> Edit:
    spec = stored(folder, dtype)
    matrix = spec._replace(shape=(E * ROWS, COLUMNS))
    return Edit(name=X, dtype=spec.dtype, source=matrix, updates=tuple(updates), stored=spec.shape)


def exact(planned: Edit) -> torch.Tensor:
    """Base and updates in float64."""
    weight = load_file(planned.source.file)[X].double()
    return updated(weight.flatten(0, 1), planned.updates).reshape(weight.shape)


def merged(folder: Path, planned: Edit) -> tuple[torch.Tensor, Rounding | None]:
    folder.mkdir(exist_ok=True)
    header = tensorfile.encode_header([part[1:] for part in planned.outputs], {})
    job = ShardJob(file="out.safetensors", header=header, edits=(planned,))
    said = runner.run_job(job, folder)
    (found,) = load_file(folder / job.file).values()
    return found, said[0] if said else None


@pytest.mark.parametrize(
    ("dtype", "tile"),
    [(torch.bfloat16, 1 << 19), (torch.float16, 100), (torch.float32, 1), (torch.float32, 1 << 19)],
    ids=str,
)
@every_update
def test_each_expert_gets_its_update_and_keeps_its_place(
    name: str, dtype: torch.dtype, tile: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", tile)
    planned = edit(tmp_path, UPDATES[name], dtype)
    wanted, (found, said) = exact(planned), merged(tmp_path / "out", planned)
    assert said is not None
    assert said.tensor == X
    assert (found.shape, found.dtype) == (wanted.shape, dtype)
    slack = wanted.abs() * ROUNDOFF[dtype] * 1.001 + (1e-13 if dtype == torch.float32 else 1e-6)
    assert ((found.double() - wanted).abs() <= slack).all()
    written = read_header(tmp_path / "out" / "out.safetensors").tensors[X]
    assert probe.applied(planned, written) == ""


@every_update
def test_its_matrices_are_edits_of_their_own(name: str, tmp_path: Path) -> None:
    planned = edit(tmp_path, UPDATES[name])
    ones = [*stacks.matrices(planned)]
    wanted, weight = exact(planned), load_file(planned.source.file)[X]
    assert [one.name for one in ones] == [f"{X}[{e}]" for e in range(E)]
    for e, one in enumerate(ones):
        found, _ = merged(tmp_path / str(e), one)
        assert ((found.double() - wanted[e]).abs() <= wanted[e].abs() * 2**-8 * 1.001 + 1e-6).all()
        changed = not torch.equal(wanted[e], weight[e].double())
        assert bool(one.updates) == changed


WRONG = {
    "an expert is left out": lambda found, base: found.index_copy(0, torch.tensor([3]), base[3:4]),
    "two are exchanged": lambda found, base: found[[0, 2, 1, 3, 4]],
    "nothing happened": lambda found, base: base,
    "half of one": lambda found, base: found.index_copy(
        0, torch.tensor([2]), (found[2:3] + base[2:3]) / 2
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["experts", "experts turned", "each by itself", "mixed"])
def test_verify_names_the_expert_that_is_wrong(name: str, wrong: str, tmp_path: Path) -> None:
    planned = edit(tmp_path, UPDATES[name], torch.float32)
    found, base = exact(planned).float(), load_file(planned.source.file)[X]
    save_file({X: WRONG[wrong](found, base).contiguous()}, tmp_path / "wrong.safetensors")
    fault = probe.applied(planned, read_header(tmp_path / "wrong.safetensors").tensors[X])
    assert f"{X}[" in fault


def test_verify_tells_the_two_layouts_of_b_apart(tmp_path: Path) -> None:
    planned = edit(tmp_path, [fused()])
    merged(tmp_path / "out", planned)
    other = replace(planned, updates=(fused(rank_major=False),))
    written = read_header(tmp_path / "out" / "out.safetensors").tensors[X]
    assert probe.applied(other, written)


def test_it_says_what_it_is(tmp_path: Path) -> None:
    planned = edit(tmp_path, [fused(), *halves(2)])
    said = planned.describe()
    assert said["shape"] == [E, ROWS, COLUMNS]
    assert said["updates"][0] == {
        "kind": "experts", "experts": E, "rank": R, "scale": 0.7, "slowest": "rank",
        "turned": False,
    }  # fmt: skip
    assert [part[1:] for part in planned.outputs] == [(X, "BF16", (E, ROWS, COLUMNS))]
    assert planned.nbytes == E * ROWS * COLUMNS * 2


def test_norms_are_summed_over_all_experts(tmp_path: Path) -> None:
    planned = edit(tmp_path, [fused()], torch.float32)
    weight = load_file(planned.source.file)[X].double()
    _, said = merged(tmp_path / "out", planned)
    wanted = torch.linalg.norm(exact(planned) - weight) / torch.linalg.norm(weight)
    assert said is not None
    assert said.update_norm == pytest.approx(float(wanted), rel=1e-6)
    assert said.measured == weight.numel()


@every_update
def test_the_algebra_of_the_check_is_that_of_the_update(name: str, tmp_path: Path) -> None:
    """Also of the whole matrix at once, which no edit is checked by."""
    planned = replace(edit(tmp_path, UPDATES[name], torch.float32), stored=())
    x, value = noise(11, COLUMNS, 3).numpy(), probe_values.expected(planned)
    wanted = exact(planned).reshape(-1, COLUMNS).numpy() @ x
    weight = load_file(planned.source.file)[X].double().flatten(0, 1).numpy()
    for step in (7, len(weight)):
        for row in range(0, len(weight), step):
            part = slice(row, row + step)
            assert abs(value(row, weight[part], x) - wanted[part]).max() < 1e-11
    assert probe_values.recomputed(planned) == (name == "dora in columns")
