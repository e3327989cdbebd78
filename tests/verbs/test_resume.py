"""Killed at any moment, a merge leaves only finished files under final names, and can go on."""

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptertools as at
from adaptertools import runner
from adaptertools.errors import Unsafe, Unsupported
from tests import tiny_llama as tiny

ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(at.__file__).parents[1]),
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Merged:
    """Inputs, and every file that a merge of them which nobody disturbs gives."""

    base: str
    adapter: str
    files: dict[str, str]

    def merge(self, out: Path, **options: Any) -> None:
        at.merge(self.adapter, base=self.base, out=out, **options)


def undisturbed(folder: Path, tensors: tiny.Tensors, shards: int) -> Merged:
    base = tiny.save_base(folder / "base", tensors, shards=shards)
    (base / "tokenizer.json").write_text("{}")
    (base / "generation_config.json").write_text("{}")
    adapter = tiny.save_lora(folder / "adapter", base, tiny.factors(tensors, tiny.linears(tensors)))
    at.merge(str(adapter), base=str(base), out=folder / "out")
    files = tiny.contents(folder / "out")
    shutil.rmtree(folder / "out")
    return Merged(str(base), str(adapter), files)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Merged:
    return undisturbed(tmp_path_factory.mktemp("small"), tiny.llama(), 3)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Merged]:
    folder = tmp_path_factory.mktemp("large")
    tensors = tiny.llama(layers=3, hidden=1024, mlp=2816, dtype=torch.bfloat16)
    yield undisturbed(folder, tensors, 6)
    shutil.rmtree(folder)


def partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def finished(out: Path) -> dict[str, str]:
    """Every file under a final name, in whichever folder is there."""
    folder = out if out.exists() else partial(out)
    return {
        name: digest
        for name, digest in tiny.contents(folder).items()
        if out.exists() or not name.endswith(".partial")
        if out.exists() or not name.startswith(runner.STATE)
    }


def check(out: Path, wanted: Merged) -> None:
    """Look at what a killed merge has left, go on with it, and look at the result."""
    left = finished(out)
    assert left.items() <= wanted.files.items()
    if out.exists():
        assert left == wanted.files
    else:
        wanted.merge(out, resume=True)
    assert tiny.contents(out) == wanted.files
    assert not partial(out).exists()


# Killed before each change of the file system

CRASHES = """
import os, signal, sys
import ml_dtypes, numpy, threadpoolctl
import adaptertools as at

base, adapter, folder = sys.argv[1:]
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}

def merge(moment):
    count = 0
    def hook(event, given):
        nonlocal count
        if event == "open" and folder in str(given[0]) and given[2] & (os.O_WRONLY | os.O_RDWR):
            if not str(given[0]).endswith(".partial"):
                print(given[0], "is written under its final name", file=sys.stderr)
                os._exit(7)
        if event in CHANGES or event == "open" and folder in str(given[0]):
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    at.merge(adapter, base=base, out=f"{folder}/{moment}", max_workers=1)

for moment in range(1, 1000):
    pid = os.fork()
    if pid == 0:
        merge(moment)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != -signal.SIGKILL:
        break
print(moment, status)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_killed_before_each_change_of_the_file_system(small: Merged, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CRASHES, small.base, small.adapter, str(tmp_path)]
    said = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert said.stdout, said.stderr
    last, status = map(int, said.stdout.split())
    assert status == 0, said.stderr
    assert last > 40
    assert tiny.contents(tmp_path / str(last)) == small.files
    for moment in range(1, last):
        assert not (tmp_path / str(moment)).exists() or moment == last - 1, moment
        check(tmp_path / str(moment), small)


# Killed at random moments

SLOW = """
import sys, time
import adaptertools as at

def progress(count):
    print(count, flush=True)
    time.sleep(0.004)

base, adapter, out = sys.argv[1:]
at.merge(adapter, base=base, out=out, max_workers=1, progress=progress)
"""


def slowly(wanted: Merged, out: Path) -> subprocess.Popen[str]:
    """Start a merge in another process, which writes a line per step."""
    command = [sys.executable, "-c", SLOW, wanted.base, wanted.adapter, str(out)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def steps(large: Merged, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many steps the merge takes."""
    out = tmp_path_factory.mktemp("steps") / "out"
    process = slowly(large, out)
    lines, _ = process.communicate()
    shutil.rmtree(out)
    assert process.returncode == 0
    return lines.count("\n")


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(20))
def test_killed_at_a_random_moment(moment: int, large: Merged, steps: int, tmp_path: Path) -> None:
    chance = random.Random(moment)
    step = round((moment + chance.random()) / 18 * steps)  # the last two: while files are written
    out, process = tmp_path / "out", slowly(large, tmp_path / "out")
    assert process.stdout is not None
    for _ in range(min(step, steps)):
        process.stdout.readline()
    time.sleep(chance.random() * (0.004 if step < steps else 0.05))
    process.kill()
    process.communicate()
    if step < steps / 2:
        assert partial(out).exists() or step == 0
        assert not out.exists()
    check(out, large)
    shutil.rmtree(out)


# Interrupted

SLOW_COMMAND = """
import os, sys, time

def pwrite(*given, real=os.pwrite):
    print("step", flush=True)
    time.sleep(0.01)
    return real(*given)

os.pwrite = pwrite
from adaptertools.cli import main
main()
"""


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(large: Merged, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rest = ["merge", large.adapter, "--base", large.base, "--out", str(out), "--max-workers", "1"]
    # Whoever runs the tests in the background made them deaf to it, and their children with them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_COMMAND, *rest], env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(45):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert len(list(partial(out).glob("*.safetensors"))) in range(1, 6)
    assert not out.exists()
    command = [sys.executable, "-m", "adaptertools", *rest, "--resume", "-q"]
    subprocess.run(command, env=ENVIRONMENT, check=True)
    assert tiny.contents(out) == large.files
    shutil.rmtree(out)
    assert "--resume" in said


def first_shard(wanted: Merged, out: Path) -> Path:
    """Put a merge at `out` in the state after its first shard; gives that shard."""
    plan = at.plan(wanted.adapter, base=wanted.base, out=out)
    (partial(out) / runner.STATE).mkdir(parents=True)
    (partial(out) / runner.STATE / "digest").write_text(plan.digest)
    runner.run_job(plan.jobs[0], partial(out))
    return partial(out) / plan.jobs[0].file


def test_an_interrupt_in_the_library_keeps_what_is_finished(small: Merged, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shard = first_shard(small, out)

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        small.merge(out, progress=stop, resume=True)
    assert "--resume" in "".join(raised.value.__notes__)
    assert shard.exists()
    assert not out.exists()
    check(out, small)


def test_an_interrupt_at_the_start_can_be_gone_on_with(small: Merged, tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small.merge(tmp_path / "out", progress=stop)
    assert partial(tmp_path / "out").is_dir()
    check(tmp_path / "out", small)


def test_finished_shards_are_not_written_again(small: Merged, tmp_path: Path) -> None:
    shard = first_shard(small, tmp_path / "out")
    before = shard.stat()
    small.merge(tmp_path / "out", resume=True)
    after = (tmp_path / "out" / shard.name).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert tiny.contents(tmp_path / "out") == small.files


def test_resume_where_nothing_is_there_just_starts(small: Merged, tmp_path: Path) -> None:
    small.merge(tmp_path / "out", resume=True)
    assert tiny.contents(tmp_path / "out") == small.files


def test_resume_of_a_finished_merge_is_refused(small: Merged, tmp_path: Path) -> None:
    small.merge(tmp_path / "out")
    with pytest.raises(Unsafe, match="exists already"):
        small.merge(tmp_path / "out", resume=True)
    assert tiny.contents(tmp_path / "out") == small.files


def test_what_is_left_is_not_taken_over_unasked(small: Merged, tmp_path: Path) -> None:
    first_shard(small, tmp_path / "out")
    before = tiny.contents(tmp_path)
    with pytest.raises(Unsafe, match="--resume"):
        small.merge(tmp_path / "out")
    assert tiny.contents(tmp_path) == before


OTHERS: dict[str, dict[str, Any]] = {
    "scale": {"scale": 0.5},
    "dtype": {"dtype": "bfloat16"},
    "shards": {"max_shard_size": "5KB"},
    "nonfinite": {"allow_nonfinite": True},
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_resume_with_other_options_is_refused(
    options: dict[str, Any], small: Merged, tmp_path: Path
) -> None:
    first_shard(small, tmp_path / "out")
    before = tiny.contents(tmp_path)
    with pytest.raises(Unsafe, match="another plan"):
        small.merge(tmp_path / "out", resume=True, **options)
    assert tiny.contents(tmp_path) == before


def test_resume_with_another_adapter_is_refused(small: Merged, tmp_path: Path) -> None:
    first_shard(small, tmp_path / "out")
    tensors = tiny.llama()
    pairs = tiny.factors(tensors, tiny.linears(tensors), seed=5)
    other = tiny.save_lora(tmp_path / "other", Path(small.base), pairs)
    with pytest.raises(Unsafe, match="another plan"):
        at.merge(other, base=small.base, out=tmp_path / "out", resume=True)


def test_resume_by_another_version_is_refused(
    small: Merged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_shard(small, tmp_path / "out")
    monkeypatch.setattr("adaptertools.verbs.plan.VERSION", "99")
    with pytest.raises(Unsafe, match="another plan"):
        small.merge(tmp_path / "out", resume=True)


@pytest.mark.parametrize("note", ["", "["])
def test_a_note_that_the_disk_lost_costs_only_its_shard(
    note: str, small: Merged, tmp_path: Path
) -> None:
    shard = first_shard(small, tmp_path / "out")
    (shard.parent / runner.STATE / f"{shard.name}.json").write_text(note)
    check(tmp_path / "out", small)


# Failed


def no_space(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    count = iter(range(10_000))

    def pwrite(*given: Any, real: Any = os.pwrite) -> Any:
        if next(count) >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*given)

    monkeypatch.setattr(os, "pwrite", pwrite)


@pytest.mark.parametrize("after", [0, 1, 9])
def test_a_full_disk_leaves_nothing(
    after: int, small: Merged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_space(monkeypatch, after)
    with pytest.raises(OSError, match="No space left"):
        small.merge(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_files_are_copied_leaves_nothing(
    small: Merged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copyfile(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with pytest.raises(OSError, match="No space left"):
        small.merge(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_going_on_keeps_what_was_there(
    small: Merged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = first_shard(small, tmp_path / "out")
    with monkeypatch.context() as during:
        no_space(during, 3)
        with pytest.raises(OSError, match="No space left") as failed:
            small.merge(tmp_path / "out", resume=True)
    assert "--resume" in "".join(failed.value.__notes__)
    assert shard.exists()
    check(tmp_path / "out", small)


def test_a_failure_leaves_nothing_though_other_jobs_go_on(
    small: Merged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[Callable[[], object]] = []

    def fail(job: Callable[[Any], object], jobs: Sequence[Any]) -> list[object]:
        late.append(lambda: job(jobs[1]))
        raise Unsupported("the first job failed")

    def rmdir(*given: Any, real: Any = os.rmdir, **named: Any) -> None:
        with contextlib.suppress(OSError, IndexError):
            late.pop()()
        real(*given, **named)

    monkeypatch.setattr(os, "rmdir", rmdir)
    with pytest.raises(Unsupported, match="first job"):
        small.merge(tmp_path / "out", map=fail)
    assert late == []
    assert list(tmp_path.iterdir()) == []


def test_room_is_counted_without_what_is_unfinished(
    small: Merged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = first_shard(small, tmp_path / "out").stat().st_size
    plan = at.plan(small.adapter, base=small.base, out=tmp_path / "out")
    unfinished = runner.unfinished(partial(tmp_path / "out") / plan.jobs[1].file)
    unfinished.touch()
    os.truncate(unfinished, plan.jobs[1].nbytes)
    usage = shutil.disk_usage(tmp_path)._replace(free=plan.nbytes - first - 20_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="are free"):
        small.merge(tmp_path / "out", resume=True)


def test_a_refusal_while_running_leaves_nothing(tmp_path: Path) -> None:
    tensors = tiny.llama(dtype=torch.float16)
    name = "model.layers.1.mlp.down_proj"
    tensors[f"{name}.weight"][3, 5] = 65000
    base = tiny.save_base(tmp_path / "base", tensors, shards=3)
    pairs = {name: (torch.ones(1, 48), torch.full((32, 1), 1000.0))}
    adapter = tiny.save_lora(tmp_path / "adapter", base, pairs)
    with pytest.raises(Unsupported, match=name):
        at.merge(adapter, base=base, out=tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
