"""Download an adapter: what it needs and nothing else, every file verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptertools import hub
from adaptertools.errors import NotFound, Unsupported, first, shown
from adaptertools.hub import fetch
from adaptertools.hub.repo import FINE
from adaptertools.ref import Ref, parse
from adaptertools.report import Finding, Level, Report

if TYPE_CHECKING:
    from adaptertools.hub.pulls import Fetched, Pull

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")


def download(
    thing: str | Path,
    *,
    local_dir: str | Path | None = None,
    revision: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    force: bool = False,
    dry_run: bool = False,
    token: str | None = None,
    progress: Callable[[int], AbstractContextManager[Callable[[int], None]]] | None = None,
) -> Report:
    """Fetch an adapter from the Hub or a store, and verify every file of it.

    Args:
        thing: user/repo, user/repo@revision, user/repo/subfolder, hf://…, s3://… .
        local_dir: the folder to put it in; the Hub's cache, if left out.
        revision: branch, tag, commit, or refs/pr/N; another way to say user/repo@revision.
        include: patterns of what to fetch instead of what an adapter needs.
        exclude: patterns of what not to fetch.
        force: overwrite files in `local_dir` that were edited.
        dry_run: only say what would be fetched.
        token: instead of the one that `hf auth login` stored.
        progress: given the bytes that are to come, opens what is called with each bunch of them.

    The report's facts say the folder, and of each file its size, sha256 and where it came from.

    Raises NotFound where there is no such thing or no adapter in it, HubError where the Hub
    refuses or fails, or a file arrives damaged twice; Unsafe where `local_dir` holds what was
    edited. No damaged or partial file has its name then.
    """
    ref = _ref(thing, revision)
    with hub.signed(token):
        pull = fetch.plan(
            ref, include=_patterns(include), exclude=_patterns(exclude), force=force,
            local_dir=Path(local_dir).expanduser() if local_dir is not None else None,
        )  # fmt: skip
        done = None if dry_run else fetch.run(pull, progress)
    return Report(
        verb="download", subject=str(thing), findings=tuple(_said(pull, done)),
        facts=_facts(pull, done),
    )  # fmt: skip


def _ref(thing: str | Path, revision: str | None) -> Ref:
    """Read what is meant; nothing on this disk is, so that folders here are not looked for."""
    if isinstance(thing, Path) or thing.startswith((".", "/", "~")):
        raise NotFound(
            f"{shown(thing)} is a path. Give user/repo, hf://user/repo or the address of a store."
        )
    ref = parse(thing, disk=False)
    if revision is None:
        return ref
    if ref.url:
        raise Unsupported(f"--revision {shown(revision)}: a store has no revisions. Leave it out.")
    if ref.revision not in (None, revision):
        raise Unsupported(
            f"{shown(thing)} names revision {shown(ref.revision)}, and --revision is "
            f"{shown(revision)}. Give one of them."
        )
    return replace(ref, revision=revision)


def _patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _facts(pull: Pull, done: Fetched | None) -> dict[str, Any]:
    return {
        "repo": pull.repo.id, "commit": pull.repo.commit, "dry_run": done is None,
        "folder": str(done.folder) if done else str(pull.into.path if pull.into else ""),
        "bytes": sum(file.size or 0 for file in pull.files.values()), "fetched": pull.nbytes,
        "files": [
            {
                "name": name, "size": file.size, "sha256": done.files[name] if done else None,
                "how": done.how[name] if done else _plan(pull, name),
                "verified": done is not None and name not in done.unchecked,
            }
            for name, file in pull.files.items()
        ],
        "left_out": [{"name": name, "why": why} for name, why in pull.left_out.items()],
        "removed": list(pull.into.stale) if pull.into else [],
    }  # fmt: skip


def _plan(pull: Pull, name: str) -> str:
    if name not in pull.there:
        return "to fetch"
    return "there" if pull.into else "cached"


def _said(pull: Pull, done: Fetched | None) -> list[Finding]:
    found = []
    if pickles := [name for name in pull.files if name.endswith(_PICKLES)]:
        found.append(_finding(
            "DWN001", "warning", first(pickles), "Is a pickle, which can run code when it is "
            "loaded" + ("" if _chosen(pull) else ", and there are no safetensors") + ".",
            "`adaptertools convert` writes safetensors without unpickling.",
        ))  # fmt: skip
    flagged = [n for n, file in pull.files.items() if file.status not in FINE]
    if flagged:
        found.append(_finding(
            "DWN002", "warning", first(flagged), "The Hub's scan complains about it.",
            "Look at its page on the Hub before anything loads it.",
        ))  # fmt: skip
    if done and done.unchecked:
        found.append(_finding(
            "DWN003", "warning", first(done.unchecked), "Came without a digest: its size is "
            "right, and nothing more can be said.", "",
        ))  # fmt: skip
    if repaired := [name for name in pull.files if done and done.how[name] == "repaired"]:
        found.append(_finding(
            "DWN004", "note", first(repaired), "Was damaged in the cache or on the way, and was "
            "fetched again.", "",
        ))  # fmt: skip
    return found


def _chosen(pull: Pull) -> bool:
    return any(name.endswith(".safetensors") for name in pull.files)


def _finding(code: str, level: Level, place: str, text: str, hint: str) -> Finding:
    return Finding(code=code, level=level, place=place, text=text, hint=hint)
