"""Verify what `stack`, `resize` or `convert` wrote against its receipt: every byte, by sha256.

The adapters it was made from are named, and where they are at hand their digests are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptertools.errors import AdapterToolsError, Mismatch, Unreadable, Unsupported, shown
from adaptertools.hub import digests
from adaptertools.hub.names import safe_name
from adaptertools.report import Finding, Level, Report
from adaptertools.verbs import _convert_draft, _stack_told, _written
from adaptertools.verbs.open import open_adapter
from adaptertools.verbs.plan import sha256_of

_RECEIPTS = {"stack": _stack_told.RECEIPT, "convert": _convert_draft.RECEIPT}
_LOADED = (".safetensors", ".bin", ".pt", ".gguf", ".npz", ".py", "adapter_config.json")
_HEX = frozenset("0123456789abcdef")


def receipt(out: Path) -> tuple[str, Path] | None:
    """Find the receipt of a stack or a conversion: in a folder, or beside a file; None for none."""
    if out.is_file():
        beside = _convert_draft.receipt_of(out)
        return ("convert", beside) if beside.is_file() else None
    found = ((verb, out / name) for verb, name in _RECEIPTS.items())
    return next((each for each in found if each[1].is_file()), None)


def verify(
    out: Path, subject: str, base: object, adapters: Sequence[str | Path] | None,
    progress: Callable[[int], None],
) -> Report:  # fmt: skip
    """Check every file, and the sources that are given or still where the receipt says.

    Raises Unreadable for a damaged receipt or one without digests, Unsupported for a base, and what
    opening an adapter raises that was given.
    """
    found = receipt(out)
    assert found is not None
    verb, path = found
    told = _told(verb, path)
    if base is not None:
        raise Unsupported(
            f"{shown(subject)} was written by {verb}, which keeps nothing of a base: it is checked "
            "by its own digests. Leave --base out."
        )
    folder = out if out.is_dir() else out.parent
    findings = []
    for file in told["written"]:
        findings += _file(folder, file)
        progress(file["size"])
    added = _added(out, {file["name"] for file in told["written"]}) if out.is_dir() else []
    findings += [_extra(name) for name in added]
    sources = _sources(verb, told, adapters)
    findings += [_source(each, verb) for each in sources]
    count = {code: sum(f.code == code for f in findings) for code in ("VER006", "VER007")}
    facts = {
        "verb": verb, "files": len(told["written"]),
        "bytes": sum(file["size"] for file in told["written"]), "sources": sources,
        "changed": count["VER006"], "missing": count["VER007"], "extra": len(added),
    }  # fmt: skip
    return Report(verb="verify", subject=subject, findings=tuple(findings), facts=facts)


def _told(verb: str, path: Path) -> dict[str, Any]:
    """Read a receipt and hold it against what it must say."""
    try:
        told = _written.said(path)
        files = told.get("written")
        if files is None:
            raise Unreadable(
                f"{shown(path)} names no digests: it is of an older adaptertools, so there is "
                f"nothing to verify {shown(path.parent)} against. Run `adaptertools {verb}` again."
            )
        for file in files:
            safe_name(file["name"])
            if not _hash(file["sha256"]) or type(file["size"]) is not int:
                raise ValueError("a digest or a size is none")
        if not all(isinstance(each["ref"], str) for each in _named(verb, told)):
            raise ValueError("a source has no name")
        if not all(_hash(digest) for each in _named(verb, told) for digest in _known(each)):
            raise ValueError("a digest is none")
        found: dict[str, Any] = told
    except Unreadable:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError,
            AdapterToolsError) as error:  # fmt: skip
        raise Unreadable(
            f"{shown(path)} is no receipt of {verb} ({shown(error)}). It was damaged or rewritten; "
            "run the command again."
        ) from None
    return found


def _hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= _HEX


def _named(verb: str, told: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*told["adapters"]] if verb == "stack" else [told["source"]]


def _known(source: Mapping[str, Any]) -> list[Any]:
    """Give a source's digests: of all of it, or of its files."""
    return [source["sha256"]] if "sha256" in source else list(source["files"].values())


def _file(folder: Path, file: Mapping[str, Any]) -> list[Finding]:
    name, path = file["name"], folder / file["name"]
    home = folder.resolve()
    # A snapshot of the Hub's cache is links to blobs beside it.
    if not path.is_file() or not {home, home.parent.parent / "blobs"} & {*path.resolve().parents}:
        return [_finding("VER007", "error", name, "The file is missing, or a link that leaves.")]
    if path.stat().st_size != file["size"] or digests.sha256(path) != file["sha256"]:
        return [_finding("VER006", "error", name, "It is not what was written: other bytes.")]
    return []


def _added(folder: Path, known: set[str]) -> list[str]:
    """Name files that a loader might take and nobody wrote."""
    every = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in {*every} - known if name.endswith(_LOADED))


def _extra(name: str) -> Finding:
    return _finding("VER008", "error", name, "The file was not written here; it came in later.")


def _sources(
    verb: str, told: Mapping[str, Any], given: Sequence[str | Path] | None
) -> list[dict[str, Any]]:
    """Say of each adapter whether it is what it was: same, changed, or absent."""
    named = _named(verb, told)
    if given is not None and len(given) != len(named):
        raise Mismatch(f"{len(given)} adapters were given, and the receipt names {len(named)}.")
    places = [*given] if given is not None else [each["ref"] for each in named]
    return [
        {"ref": each["ref"], "state": _state(verb, each, place, given is not None)}
        for each, place in zip(named, places, strict=True)
    ]


def _state(verb: str, source: Mapping[str, Any], place: str | Path, asked: bool) -> str:
    if not _known(source):
        return "unknown"
    if not asked and (verb == "convert" or not Path(place).exists()):
        return "absent"  # a conversion's receipt has no path; a Hub is not asked unasked
    if verb == "stack":
        same = sha256_of(open_adapter(place)) == source["sha256"]
    else:
        adapter = open_adapter(place)
        same = _written.read(adapter)["files"] == source["files"]
    return "same" if same else "changed"


def _source(source: Mapping[str, str], verb: str) -> Finding:
    ref, state = source["ref"], source["state"]
    if state == "changed":
        return _finding("VER003", "error", ref, "The adapter is not the one that was read: other "
                        "digest.")  # fmt: skip
    text = {
        "same": f"Made by {verb} from this adapter, which is what it was.",
        "absent": f"Made by {verb} from this adapter, which is not at hand; pass it as --adapter "
        "to compare its digest.",
        "unknown": f"Made by {verb} from this adapter, of which the receipt keeps no digest.",
    }
    return _finding("VER010", "note", ref, text[state])


def _finding(code: str, level: Level, place: str, text: str) -> Finding:
    return Finding(code=code, level=level, place=place, text=text)
