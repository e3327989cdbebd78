"""Verify a merged model: read what was written, and hold it against base and adapters.

Untouched tensors must be equal byte for byte. Edited ones are multiplied with random vectors and
compared with what base and adapter give, by other arithmetic than the merge's (probe.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from adaptertools import checkpoint, hub, probe, probe_packed, tensorfile
from adaptertools.errors import AdapterToolsError
from adaptertools.jobs import Edit, MergePlan
from adaptertools.probe_values import recomputed
from adaptertools.report import Finding, Report
from adaptertools.tensorfile import TensorSpec
from adaptertools.verbs import _verify_download, _verify_written
from adaptertools.verbs._finish import RECEIPT, read_receipt
from adaptertools.verbs.plan import plan


def _silent(count: int) -> None:
    """Take progress and say nothing."""


def verify(
    out: str | Path,
    *,
    base: str | Path | None = None,
    adapters: str | Path | Sequence[str | Path] | None = None,
    progress: Callable[[int], None] = _silent,
) -> Report:
    """Check a folder against its receipt: that of merge, download, stack, resize or convert.

    A merged model is computed again from base and adapters, by samples; of what was downloaded, or
    written by stack, resize or convert, every byte is hashed, and the adapters that those read are
    named, and compared where they are at hand. A merged model that was downloaded is checked as a
    download, unless base or adapters are given.

    Args:
        out: the folder; of a conversion also the file.
        base, adapters: where they are now, if no longer where the receipt says.
        progress: called with bytes checked, from several threads.

    Raises Unreadable without a receipt, NotFound where base or adapters are gone.
    """
    if _verify_written.receipt(Path(out)) and Path(out).is_file():
        return _verify_written.verify(Path(out), str(out), base, _listed(adapters), progress)
    folder = hub.local(out, "merged model")
    if base is None and adapters is None and _verify_download.fits(folder):
        return _verify_download.verify(folder, str(out), progress)
    if not (folder / RECEIPT).is_file() and _verify_written.receipt(folder):
        return _verify_written.verify(folder, str(out), base, _listed(adapters), progress)
    receipt = read_receipt(folder)
    options = dict(receipt["options"])
    place, named = folder.absolute(), [adapter["ref"] for adapter in receipt["adapters"]]
    again = plan(
        _listed(adapters) or named,
        base=base or receipt["base"]["ref"],
        out=place.with_name(place.name + ".never"),
        scale=[a["scale"] for a in receipt["adapters"]],
        **options,
    )
    report = check_output(again, folder, receipt["files"], progress)
    return Report(
        verb="verify", subject=str(out), facts=report.facts,
        findings=(*_changed(receipt, again), *report.findings),
    )  # fmt: skip


def _listed(adapters: str | Path | Sequence[str | Path] | None) -> list[str | Path] | None:
    """Give a list of what may be one."""
    return [adapters] if isinstance(adapters, str | Path) else list(adapters or ()) or None


def _changed(receipt: Mapping[str, Any], again: MergePlan) -> list[Finding]:
    """Say where base or adapters are no longer what they were."""
    pairs = [("base", "headers_sha256", receipt["base"], again.base)]
    pairs += [
        ("adapter", "sha256", old, new)
        for old, new in zip(receipt["adapters"], again.adapters, strict=True)
    ]
    return [
        _error("VER003", new["ref"], f"The {what} is not the one that was merged: other digest.")
        for what, key, old, new in pairs
        if old[key] != new[key]
    ]


def check_output(
    plan: MergePlan,
    folder: Path,
    files: Sequence[Mapping[str, str]],
    progress: Callable[[int], None] = _silent,
) -> Report:
    """Check every tensor and file of a plan's output, in its final or its unfinished folder.

    `files` are those beside the weights, as the plan or the receipt describes them.
    """
    findings: list[Finding] = []
    work: list[Edit] = []
    every: dict[str, TensorSpec] = {}
    for job in plan.jobs:
        try:
            written = tensorfile.read_header(folder / job.file).tensors
        except AdapterToolsError as error:
            findings.append(_error("VER001", job.file, str(error)))
            continue
        wanted = [part[1:] for edit in job.edits for part in edit.outputs]
        if sorted(wanted) != sorted((s.name, s.dtype, s.shape) for s in written.values()):
            findings.append(_error("VER001", job.file, "Its tensors are not the planned ones."))
            continue
        work += job.edits
        every |= written
    findings += [_error("VER002", f["name"], why) for f in files if (why := _other(f, folder))]
    findings += _extra(plan, folder)
    nonfinite = bool(plan.options["allow_nonfinite"])
    with ThreadPoolExecutor(2) as pool:
        faults = list(pool.map(lambda edit: _check(edit, every, nonfinite, progress), work))
    findings += [_error("VER004", e.name, f) for e, f in zip(work, faults, strict=True) if f]
    probed = sum(bool(edit.updates) for edit in work)
    facts = {"tensors": len(work), "probed": probed, "equal": len(work) - probed,
             "wrong": sum(1 for f in faults if f)}  # fmt: skip
    if again := sum(recomputed(edit) for edit in work if edit.updates):
        text = f"{again} of the {probed} changed tensors were computed a second time, in float64."
        findings.append(Finding(code="VER009", level="note", place="", text=text))
    return Report(verb="verify", subject=str(folder), findings=tuple(findings), facts=facts)


def _extra(plan: MergePlan, folder: Path) -> list[Finding]:
    """Find weights that a loader might read and no plan wrote."""
    ours = {job.file for job in plan.jobs} | {file.name for file in plan.files}
    return [
        _error("VER005", path.name, "Weights that the merge did not write.")
        for path in sorted(folder.glob("*.safetensors"))
        if path.name not in ours and path.name != checkpoint.INDEX
    ]


def _other(file: Mapping[str, str], folder: Path) -> str:
    """Give the fault of a file beside the weights; the card is for people, who may rewrite it."""
    path = folder / file["name"]
    home = folder.resolve()
    # A snapshot of the Hub's cache is links to blobs beside it.
    if not path.is_file() or not {home, home.parent.parent / "blobs"} & {*path.resolve().parents}:
        return "The file is missing."
    if file["name"] == "README.md":
        return ""
    with path.open("rb") as stream:
        same = hashlib.file_digest(stream, "sha256").hexdigest() == file["sha256"]
    return "" if same else "It is not what the merge wrote."


def _check(
    edit: Edit, every: Mapping[str, TensorSpec], nonfinite: bool, progress: Callable[[int], None]
) -> str:
    """Give the fault of one edit's tensors, empty where they are right."""
    written = every[edit.outputs[0].name]
    if edit.copied:
        fault = "" if tensorfile.same(edit.source, written) else "Its bytes are not the source's."
    elif edit.repack is not None or edit.turned:
        fault = probe_packed.applied(edit, every)
    elif not edit.updates:
        fault = probe.converted(edit, written)
    else:
        fault = probe.applied(edit, written, nonfinite)
    progress(edit.nbytes)
    return fault


def _error(code: str, place: str, text: str) -> Finding:
    return Finding(code=code, level="error", place=place, text=text)
