"""Verify a downloaded folder against its receipt: offline, every byte of every file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adaptertools import schema
from adaptertools.errors import AdapterToolsError, Unreadable, shown
from adaptertools.hub import digests, receipt
from adaptertools.hub.names import safe_name
from adaptertools.report import Finding, Level, Report

# What a loader might take without being asked.
_LOADED = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".py", ".gguf",
           ".npz", "adapter_config.json")  # fmt: skip


def fits(folder: Path) -> bool:
    """Tell whether a folder was downloaded, by its receipt."""
    return receipt.there(folder)


def verify(folder: Path, subject: str, progress: Callable[[int], None]) -> Report:
    """Check a folder against its receipt, naming what changed, is missing or was added.

    Raises Unreadable where the receipt is damaged.
    """
    told = receipt.read(folder)
    _check(told, folder)
    findings = []
    for file in told["files"]:
        findings += _one(folder, file)
        progress(file["size"])
    added = _added(folder, {file["name"] for file in told["files"]})
    findings += [_extra(name) for name in added]
    count = {code: sum(f.code == code for f in findings) for code in ("VER006", "VER007")}
    return Report(
        verb="verify", subject=subject, findings=tuple(findings),
        facts={
            "files": len(told["files"]), "bytes": sum(file["size"] for file in told["files"]),
            "source": dict(told["source"]), "changed": count["VER006"],
            "missing": count["VER007"], "extra": len(added),
        },
    )  # fmt: skip


def _check(told: Mapping[str, Any], folder: Path) -> None:
    """Hold a receipt against its schema, and its names against paths that leave the folder."""
    try:
        schema.check("download", told)
        for file in told["files"]:
            safe_name(file["name"])
    except AdapterToolsError as error:
        raise Unreadable(
            f"{shown(folder / receipt.RECEIPT)} is no receipt of a download: {error}"
        ) from None


def _one(folder: Path, file: Mapping[str, Any]) -> list[Finding]:
    name, path = file["name"], folder / file["name"]
    if not path.is_file() or folder.resolve() not in path.resolve().parents:
        return [_finding("VER007", "error", name, "The file is missing, or a link that leaves.")]
    size = path.stat().st_size
    if size != file["size"]:
        why = f"It has {size} bytes; {file['size']} were downloaded."
        return [_finding("VER006", "error", name, why)]
    if digests.sha256(path) != file["sha256"]:
        return [_finding("VER006", "error", name, "It is not what was downloaded: other bytes.")]
    return []


def _added(folder: Path, known: set[str]) -> list[str]:
    """Name the files that the receipt does not; what git and `hf` keep for themselves aside."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if each not in (".git", ".cache"))
        found += [Path(place, name).relative_to(folder).as_posix() for name in names]
    return sorted(set(found) - known - {receipt.RECEIPT})


def _extra(name: str) -> Finding:
    level: Level = "error" if name.endswith(_LOADED) else "warning"
    return _finding("VER008", level, name, "The file was not downloaded; it came in later.")


def _finding(code: str, level: Level, place: str, text: str) -> Finding:
    return Finding(code=code, level=level, place=place, text=text, hint="", file=place)
