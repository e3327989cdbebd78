"""After the shards: the other files and the receipt."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from adaptertools import schema
from adaptertools.errors import Unreadable, shown
from adaptertools.jobs import MergePlan
from adaptertools.report import plain
from adaptertools.rounding import Rounding

RECEIPT = "adaptertools.json"


def write_files(plan: MergePlan, folder: Path) -> None:
    """Copy or write every file beside the weights, each under its name only when it is whole."""
    for job in plan.files:
        target = folder / job.name
        target.parent.mkdir(exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        if job.text is None:
            shutil.copyfile(job.source, partial)
        else:
            partial.write_text(job.text, "utf-8")
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)


def receipt(plan: MergePlan, said: Sequence[Rounding]) -> dict[str, Any]:
    """Say what was made from what, and how exact each edit is; no times, so that runs compare."""
    exact = {rounding.tensor: asdict(rounding) for rounding in said}
    edits = [e for job in plan.as_json()["shards"] for e in job["edits"]]
    for edit in edits:
        if rounding := exact.get(edit["tensor"]):
            edit["rounding"] = plain({k: v for k, v in rounding.items() if k != "tensor"})
    body = plan.as_json()
    return {
        "verb": "merge", "version": plan.version, "digest": plan.digest,
        "libraries": {name: _version(name) for name in ("numpy", "ml_dtypes")},
        "base": body["base"], "adapters": body["adapters"], "options": body["options"],
        "findings": body["findings"], "files": body["files"], "edits": edits,
    }  # fmt: skip


def read_receipt(folder: Path) -> dict[str, Any]:
    """Read the receipt of a merged model; raise Unreadable where there is none or it is damaged."""
    path = folder / RECEIPT
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
        schema.check("receipt", value)
    except FileNotFoundError:
        why = "is not there: no receipt of a merge"
    except (OSError, ValueError, RecursionError) as error:
        why = f"is no receipt of a merge ({shown(error)})"
    else:
        return value
    raise Unreadable(
        f"{shown(path)} {why}, so there is nothing to verify {shown(folder)} against. "
        "`adaptertools merge`, `stack`, `resize` and `convert` write one, and "
        "`adaptertools download --local-dir` one of its own."
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"
