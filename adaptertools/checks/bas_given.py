"""BAS: is the base that was given the one that the config names?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from adaptertools.checks import check
from adaptertools.checks.crd import alike
from adaptertools.errors import NotFound, shown
from adaptertools.facts import Base, Found, Result
from adaptertools.ref import parse

# Where the Hub's cache keeps a model: its folders say repository and commit.
_CACHED = re.compile(r"models--([\w.-]{1,200})[/\\]snapshots[/\\]([0-9a-f]{40})(?![0-9a-f])")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@check(
    "BAS011", "the base given is the one that is named", level="note",
    fix="Pass the base that the config names, if this is another one.",
)  # fmt: skip
def named(config: Mapping[str, Any], base: Base) -> Result:
    """Another base of the same shapes takes the adapter without a word, and answers differently.

    A repository, and a folder of the Hub's cache, say what they are; they are held against
    base_model_name_or_path and revision. Of any other folder nobody can tell.
    """
    repo, commit = _identity(base)
    said, revision = config.get("base_model_name_or_path"), config.get("revision")
    if repo and isinstance(said, str) and _is_repository(said) and not alike(repo, said):
        text = f"The config names {shown(said)}, and {shown(repo)} was given."
        yield Found(text=text, pointer="/base_model_name_or_path")
    elif commit and _is_commit(revision) and commit != revision:
        text = f"The config names commit {revision[:12]} of the base, and {commit[:12]} was given."
        yield Found(text=text, pointer="/revision")


def _identity(base: Base) -> tuple[str, str]:
    """Give repository and commit of a base, as far as its reference or its place say them."""
    spec = next(iter((base.tensors or {}).values()), None)
    cached = _CACHED.search(spec.file if spec else "") or _CACHED.search(base.ref)
    if cached:
        return cached[1].replace("--", "/", 1), cached[2]
    try:
        ref = parse(base.ref)
    except NotFound:
        return "", ""
    pinned = _COMMIT.fullmatch(ref.revision or "")
    return ref.repo or "", pinned[0] if pinned else ""


def _is_commit(revision: object) -> TypeGuard[str]:
    return isinstance(revision, str) and _COMMIT.fullmatch(revision) is not None


def _is_repository(name: str) -> bool:
    try:
        return parse(name, disk=False).repo is not None
    except NotFound:
        return False
