"""A battery of hostile folders: nothing runs, nothing hangs, memory stays bounded, each is found.

They are validated one after another in a process of its own, which reports what each one took.
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import adaptertools as at
from tests import hostile
from tests.checks import tiny

SECONDS, MEGABYTES = 30, 300  # at most for one folder; the processor may be shared with others

# What runs in the other process: an ear on what Python is asked to do, and a child for each folder.
SCRIPT = """
import json, os, resource, sys, time
from pathlib import Path
heard, listening = [], False
ears = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn"}
def hear(event, args):
    if listening and (event in ears or event == "subprocess.Popen" and "-c" not in args[1]):
        heard.append(event)
sys.addaudithook(hear)
import adaptertools as at
at.validate(sys.argv[2])
for name in sorted(Path(sys.argv[1]).iterdir()):
    if os.fork():
        status = os.wait()[1]
        if status:
            print(json.dumps({"killed": status}))
        continue
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    begin, listening = time.process_time(), True
    report = at.validate(name)
    listening = False
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "seconds": time.process_time() - begin, "peak": peak // 1024, "heard": heard,
        "codes": sorted({f.code for f in report.findings}),
        "lines": [f.text for f in report.findings if not f.text.isprintable()],
    }), flush=True)
    os._exit(0)
"""


@cache
def battery(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Make all folders, validate them, and give what was reported by name."""
    good = tiny.adapter(folder / "good")
    for i, (make, _) in enumerate(hostile.EVERY.values()):
        make(tiny.adapter(folder / "bad" / f"{i:03d}"))
    code = SCRIPT.replace("SECONDS", str(SECONDS))
    done = subprocess.run(
        [sys.executable, "-uc", code, str(folder / "bad"), str(good)], capture_output=True,
        text=True, cwd=folder, timeout=600, env={"PYTHONPATH": str(Path(at.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = dict(zip(hostile.EVERY, map(json.loads, done.stdout.splitlines()), strict=True))
    return said, sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.mark.parametrize("name", hostile.EVERY)
def test_each_is_found(name: str, folder: Path) -> None:
    said = battery(folder)[0][name]
    assert "killed" not in said, "it took too long, or too much"
    assert hostile.EVERY[name][1] in said["codes"]
    assert said["heard"] == []
    assert said["peak"] < MEGABYTES
    assert said["lines"] == []


def test_none_ran(folder: Path) -> None:
    assert battery(folder)[1] == ["bad", "good"]


def test_there_are_enough() -> None:
    assert len(hostile.EVERY) >= 40
