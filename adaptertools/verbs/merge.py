"""Merge adapters into a base: plan, run, finish. Nothing unfinished ever has a final name."""

from __future__ import annotations

import builtins
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from adaptertools import hub, runner, tensorfile
from adaptertools.adapter import Adapter
from adaptertools.errors import Unreadable, Unsafe, first, shown
from adaptertools.jobs import MergePlan
from adaptertools.report import Finding, Report
from adaptertools.rounding import Rounding
from adaptertools.verbs import _survival
from adaptertools.verbs._finish import RECEIPT, read_receipt, receipt, write_files
from adaptertools.verbs.open import open_adapter
from adaptertools.verbs.plan import Refs, plan
from adaptertools.verbs.verify import check_output

Map = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]


def merge(
    adapters: Refs | MergePlan, *, base: str | Path | None = None, out: str | Path | None = None,
    max_workers: int | None = None, resume: bool = False, verify: bool = False,
    map: Map | None = None, progress: Callable[[int], None] | None = None, **options: Any,
) -> Report:  # fmt: skip
    """Merge adapters into a base model, shard by shard, and give a report.

    Args:
        adapters: what `plan` takes, or a plan that was made before.
        base, out, options: as for `plan`.
        max_workers: threads per shard; the number of processors up to 8 where it is None.
        resume: go on with OUT.partial, which must come from the same plan.
        verify: check what was written before it gets its final name.
        map: runs jobs elsewhere, such as a pool's `map`; jobs pickle.
        progress: called with bytes written, from several threads; not with `map`.

    Raises what `plan` raises, Unsafe where the output exists, and OSError where the disk fails.
    """
    if not isinstance(adapters, MergePlan):
        if out is None:
            raise Unsafe("merge needs out, the folder to create.")
        adapters = plan(adapters, base=base, out=out, **options)
    elif base is not None or out is not None or options:
        raise TypeError("A plan says base, out and options already; they were given again.")
    return _run(adapters, max_workers, resume, verify, map, progress or (lambda count: None))


def _run(
    plan: MergePlan, max_workers: int | None, resume: bool, verify: bool, map: Map | None,
    progress: Callable[[int], None],
) -> Report:  # fmt: skip
    out = Path(plan.out) if Path(plan.out).name else Path(plan.out).absolute()
    folder = out.with_name(out.name + ".partial")
    fresh = _check_free(plan, out, folder, resume)
    if not plan.options["allow_nonfinite"]:
        _check_finite(plan)
    _check_disk(plan, out, folder)
    try:
        (folder / runner.STATE).mkdir(parents=True, exist_ok=True)
        runner.replace_text(folder / runner.STATE / "digest", plan.digest)
        said = _write_shards(plan, folder, max_workers, map, progress)
        write_files(plan, folder)
        text = json.dumps(receipt(plan, said), indent=1) + "\n"
        runner.replace_text(folder / RECEIPT, text)
        report = _report(plan, said)
        if verify:
            report = _verified(plan, folder, report)
        shutil.rmtree(folder / runner.STATE)
        _rename(folder, out)
    except BaseException as error:
        # Ctrl-C keeps what is finished for --resume; a failure leaves nothing behind.
        if folder.is_dir() and fresh and not isinstance(error, KeyboardInterrupt):
            _remove(folder)
        elif folder.is_dir():
            error.add_note(f"{shown(folder)} is kept; run the same command with --resume.")
        raise
    return report


def _remove(folder: Path) -> None:
    """Take a folder away, also where jobs elsewhere have not heard yet that it is over."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _check_free(plan: MergePlan, out: Path, folder: Path, resume: bool) -> bool:
    """Refuse to write over anything; tell whether the run starts afresh."""
    if out.exists() or out.is_symlink():
        raise Unsafe(
            f"{shown(out)} exists already. A merge never writes into an existing output, "
            "because merging onto it twice would apply the adapter twice. Choose another --out."
        )
    if not folder.exists():
        return True
    if not resume:
        raise Unsafe(
            f"{shown(folder)} is there from an earlier run. Pass --resume to go on with it, "
            "or delete it."
        )
    if _digest_of(folder) not in ("", plan.digest):
        raise Unsafe(
            f"{shown(folder)} is from another plan: base, adapters, options or version differ. "
            "Delete it and start again."
        )
    return False


def _digest_of(folder: Path) -> str:
    """Give the digest of the plan that a folder was begun with; empty where nothing was begun."""
    digest = folder / runner.STATE / "digest"
    if digest.is_file() and (said := digest.read_text()):
        return said
    if (folder / RECEIPT).is_file():  # stopped between the last file and the last rename
        return str(read_receipt(folder)["digest"])
    return "?" if any(folder.glob("*.safetensors")) else ""


def _check_finite(plan: MergePlan) -> None:
    """Refuse NaN and infinity in any adapter, before anything is written."""
    for adapter in _adapters(plan):
        bad = [
            name
            for name, spec in adapter.tensors.items()
            if name not in adapter.ignored
            and spec.dtype in tensorfile.FLOATS
            and not tensorfile.finite(spec)
        ]
        if bad:
            raise Unreadable(
                f"{shown(adapter.ref)}: {len(bad)} tensors hold NaN or infinity: {first(bad)}. "
                "The training diverged. Use an earlier checkpoint, or pass --allow-nonfinite."
            )


def _adapters(plan: MergePlan) -> list[Adapter]:
    base = Path(hub.local(plan.base["ref"], "base"))
    return [open_adapter(adapter["ref"], base=base) for adapter in plan.adapters]


def _check_disk(plan: MergePlan, out: Path, folder: Path) -> None:
    place = next(p for p in (folder, *out.resolve().parents) if p.is_dir())
    # What is on the disk already, finished or to be written again; unfinished files have holes.
    done = sum(f.stat().st_blocks * 512 for f in folder.glob("*")) if folder.is_dir() else 0
    need = plan.nbytes - done
    free = shutil.disk_usage(place).free
    if need > free:
        raise OSError(
            28, f"the merged model takes {need:,} bytes, {free:,} are free", str(place)
        )  # fmt: skip


def _write_shards(
    plan: MergePlan, folder: Path, max_workers: int | None, map: Map | None,
    progress: Callable[[int], None],
) -> list[Rounding]:  # fmt: skip
    workers = max_workers or min(os.cpu_count() or 1, 8)
    nonfinite = bool(plan.options["allow_nonfinite"])
    with _one_blas_thread() if map in (None, builtins.map) else nullcontext():
        if map is None:
            done = runner.run_all(plan.jobs, folder, workers, nonfinite, progress)
        else:
            job = partial(runner.run_job, folder=folder, workers=workers, nonfinite=nonfinite)
            done = list(map(job, plan.jobs))
    return [rounding for shard in done for rounding in shard]


def _one_blas_thread() -> Any:
    """Keep BLAS from starting threads of its own: tiles already run in parallel."""
    import numpy as np  # noqa: F401  (threadpoolctl finds the libraries that are loaded)
    import threadpoolctl

    return threadpoolctl.threadpool_limits(1)


def _report(plan: MergePlan, said: Sequence[Rounding]) -> Report:
    norms = sorted(rounding.update_norm for rounding in said)
    facts = {
        "bytes": plan.nbytes, "shards": len(plan.jobs), "edits": len(plan.edits),
        "digest": plan.digest,
        "update_norm": {"median": norms[len(norms) // 2], "max": norms[-1]} if norms else {},
        "max_error": max((r.max_error for r in said), default=0.0),
        "swallowed": max((r.swallowed for r in said), default=0.0),
        "rounding": [asdict(rounding) for rounding in said],
    }  # fmt: skip
    findings = list(plan.findings)
    if summary := _survival.summed(said):
        facts["retention"] = summary
        findings.append(_survival.verdict(summary, plan))
    if norms and norms[-1] == 0:
        findings.append(
            Finding(
                code="MRG030", level="warning", place=plan.out,
                text="Every update is zero: the merged model is the base. "
                "The adapter was saved before it was trained.",
            )
        )  # fmt: skip
    return Report(verb="merge", subject=plan.out, findings=tuple(findings), facts=facts)


def _verified(plan: MergePlan, folder: Path, report: Report) -> Report:
    checked = check_output(plan, folder, [file.describe() for file in plan.files])
    if not checked.ok:
        wrong = [f.place for f in checked.findings if f.level == "error"]
        raise Unreadable(
            f"What was written is not what was planned, at {first(wrong)}. It was removed. "
            "Check the disk and the memory of this machine, and report it."
        )
    facts = {**report.facts, "verified": dict(checked.facts)}
    return Report(verb="merge", subject=report.subject, findings=report.findings, facts=facts)


def _rename(folder: Path, out: Path) -> None:
    """Give the finished folder its name, and make the name last."""
    _sync(folder)
    folder.rename(out)
    _sync(out.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
