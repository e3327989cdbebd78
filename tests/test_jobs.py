"""The plan and its jobs: they say what will be written, pickle, and hash to what they say."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

import adaptertools as at
from adaptertools.jobs import Edit, FileJob, MergePlan, ShardJob
from adaptertools.tensorfile import TensorSpec, read_header
from tests import tiny_llama as tiny


@pytest.fixture
def plan(tmp_path: Path) -> MergePlan:
    base, adapter = tiny.small(tmp_path, shards=3)
    return at.plan(adapter, base=base, out=tmp_path / "out")


def spec(dtype: str, shape: tuple[int, ...], nbytes: int) -> TensorSpec:
    return TensorSpec("t", dtype, shape, "/file", 100, 100 + nbytes)


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes"),
    [("F32", (3, 5), 60), ("BF16", (), 2), ("F4", (4, 3), 6), ("I8", (0, 7), 0)],
)
def test_an_edit_knows_its_size(dtype: str, shape: tuple[int, ...], nbytes: int) -> None:
    edit = Edit(name="t", dtype=dtype, source=spec(dtype, shape, nbytes))
    assert (edit.nbytes, edit.shape, edit.copied) == (nbytes, shape, True)


def test_another_dtype_is_no_copy() -> None:
    edit = Edit(name="t", dtype="F16", source=spec("F32", (3, 5), 60))
    assert not edit.copied
    assert edit.nbytes == 30


def test_a_job_is_as_large_as_its_file(plan: MergePlan, tmp_path: Path) -> None:
    at.merge(plan)
    for job in plan.jobs:
        assert (tmp_path / "out" / job.file).stat().st_size == job.nbytes
    assert plan.nbytes == sum(job.nbytes for job in plan.jobs)


def test_edits_are_what_is_not_the_bases_own(plan: MergePlan) -> None:
    names = {edit.name.rpartition(".")[0].rpartition(".")[2] for edit in plan.edits}
    assert names == {f"{x}_proj" for x in ("q", "k", "v", "o", "gate", "up", "down")}
    assert len(plan.edits) == 14


def test_plan_and_jobs_pickle(plan: MergePlan) -> None:
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan
    assert again.digest == plan.digest
    for job in plan.jobs:
        same: ShardJob = pickle.loads(pickle.dumps(job))
        assert same == job
        assert same.header == job.header


def test_a_plan_is_json(plan: MergePlan) -> None:
    body = plan.as_json()
    assert json.loads(json.dumps(body)) == body
    assert body["digest"] == plan.digest
    assert [shard["file"] for shard in body["shards"]] == [job.file for job in plan.jobs]
    copied = sum(shard["copied"] for shard in body["shards"])
    assert copied + len(plan.edits) == sum(len(job.edits) for job in plan.jobs)


def test_the_digest_names_the_content_and_not_the_place(plan: MergePlan) -> None:
    assert replace(plan, out="elsewhere").digest == plan.digest
    assert replace(plan, version="0").digest != plan.digest
    assert replace(plan, jobs=plan.jobs[1:]).digest != plan.digest
    assert replace(plan, base={**plan.base, "headers_sha256": "0"}).digest != plan.digest


def test_a_file_is_named_by_the_digest_of_what_is_in_it(tmp_path: Path) -> None:
    one, two = (FileJob.written("README.md", text) for text in ("a", "b"))
    assert one.describe()["name"] == "README.md"
    assert one.describe() != two.describe()
    (tmp_path / "x").write_text("a")
    same = FileJob.copied("x", tmp_path / "x").describe()
    assert same == {"name": "x", "sha256": one.sha256, "from": str(tmp_path / "x")}


def test_every_planned_header_is_one_that_can_be_read(plan: MergePlan, tmp_path: Path) -> None:
    for job in plan.jobs:
        path = tmp_path / job.file
        path.write_bytes(job.header + bytes(job.nbytes - len(job.header)))
        found = read_header(path).tensors
        assert [(s.name, s.dtype, s.shape) for s in found.values()] == [
            (e.name, e.dtype, e.shape) for e in job.edits
        ]
