"""Upload an adapter or a merged model: what others need of it, as one commit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from adaptertools import hub
from adaptertools.adapter import Adapter
from adaptertools.errors import AdapterToolsError, NotFound, UnknownFormat, first, shown
from adaptertools.facts import File
from adaptertools.ref import parse
from adaptertools.report import Report
from adaptertools.verbs import _upload_adapter, _upload_card, _upload_merged
from adaptertools.verbs._gather import CONFIG, PICKLED, WEIGHTS
from adaptertools.verbs._place import listed
from adaptertools.verbs._upload_choice import CARD, RECEIPT
from adaptertools.verbs._upload_draft import Ask, Draft
from adaptertools.verbs._upload_target import Target, aim

Opened = Callable[[int], AbstractContextManager[Callable[[int], None]]]
_MODEL = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def upload(
    thing: str | Path | Adapter, repo: str, *, private: bool = False,
    commit_message: str | None = None, revision: str | None = None, create_pr: bool = False,
    delete_others: bool = False, no_validate: bool = False, dry_run: bool = False,
    base: str | None = None, include: Sequence[str] = (), exclude: Sequence[str] = (),
    token: str | None = None, announce: Callable[[Report], object] | None = None,
    progress: Opened | None = None,
) -> Report:  # fmt: skip
    """Publish an adapter or a merged model; the repository has all of it afterwards, or none.

    The folder is validated and left as it is. What is sent is what loaders and people need; the
    card is written or mended on the way, a pickle becomes safetensors, and no path of this machine
    goes along. Uploading the same again changes nothing and makes no commit.

    Args:
        thing: the folder; one with the receipt of a merge is a merged model.
        repo: user/repo, user/repo@branch, or the address of a store such as s3://bucket/folder.
        private: make the repository private, where it is made.
        commit_message: instead of one that says what was uploaded.
        revision: the branch, which is made where there is none.
        create_pr: open a pull request instead of writing to the branch.
        delete_others: take away what the repository holds and this folder does not send.
        no_validate: send it whatever validation would find.
        dry_run: only say what would be done.
        base: the base model on the Hub, where the folder names another or a path.
        include, exclude: patterns of what to send besides what is needed, and of what not.
        token: instead of the one that `hf auth login` stored.
        announce: called with the plan, a report of a dry run, before anything is sent.
        progress: given the bytes that are to be sent, opens what is called with each bunch of them.

    The report's facts say the commit, each file and what was done to it, and what stayed and why.

    Raises NotFound for no such folder and no base, UnknownFormat, Unsupported and Unreadable for
    what is no adapter or merged model, Unsafe where validation finds errors or the base is a path,
    HubError where the Hub refuses or fails, or somebody else wrote meanwhile.
    """
    folder = _folder(thing)
    with hub.signed(token), tempfile.TemporaryDirectory(prefix="adaptertools-") as temp:
        target = aim(repo, revision=revision, private=private, create_pr=create_pr)
        ask = Ask(
            folder=folder, repo=target.name, base=base, include=_patterns(include),
            exclude=_patterns(exclude), check=not no_validate, temp=Path(temp),
        )  # fmt: skip
        draft = _drafted(ask, listed(folder), target)
        target.compare(draft, delete_others=delete_others)
        plan = _report(draft, target, ask, planned=True)
        if not dry_run:
            (announce or _hush)(plan)
            _carry_out(draft, target, commit_message, progress)
        return plan if dry_run else _report(draft, target, ask, planned=False)


def _carry_out(
    draft: Draft, target: Target, message: str | None, progress: Opened | None
) -> None:  # fmt: skip
    if target.pending:
        with (progress or _silent)(target.nbytes) as advance:
            target.send(draft, message or draft.message, advance)


def _hush(plan: Report) -> None:
    """Take the plan and say nothing."""


def _silent(total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda count: None)


def _patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _folder(thing: str | Path | Adapter) -> Path:
    """Find the folder; what is on the Hub must be fetched first."""
    if isinstance(thing, Adapter):
        return Path(thing.folder)
    folder = Path(thing).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise NotFound(f"{shown(thing)} is a file. Give the folder that it lies in.")
    raise NotFound(
        f"{shown(thing)}: no such folder. upload sends one of this machine; what is on the Hub is "
        "fetched by `adaptertools download --local-dir` first."
    )


def _drafted(ask: Ask, files: Mapping[str, File], target: Target) -> Draft:
    """Put the upload together, as what the folder is."""
    card = _card(files) if CARD in files else target.card()
    if CONFIG in files:
        return _upload_adapter.drafted(ask, files, card, _licence)
    if RECEIPT in files and "config.json" in files:
        return _upload_merged.drafted(ask, files, card, _licence)
    raise _neither(ask.folder, files)


def _card(files: Mapping[str, File]) -> str | None:
    data = files[CARD].read()
    return data.decode("utf-8", errors="replace") if data.strip() else None


def _neither(folder: Path, files: Mapping[str, File]) -> UnknownFormat:
    """Say what a folder is that holds neither adapter nor merged model."""
    inner = [name.removesuffix(f"/{CONFIG}") for name in files if name.endswith(f"/{CONFIG}")]
    if inner:
        return UnknownFormat(
            f"{shown(folder)} holds no adapter itself; {first(inner)} in it do"
            f"{'es' * (len(inner) == 1)}. Give {shown(folder / inner[0])}."
        )
    if any(name in files for name in _MODEL):
        return UnknownFormat(
            f"{shown(folder)} holds a whole model without the receipt of a merge, {RECEIPT}, so "
            "nothing says what it was made from. `hf upload` sends a folder as it is."
        )
    if WEIGHTS in files or PICKLED in files:
        return UnknownFormat(
            f"{shown(folder)} has an adapter's weights and no {CONFIG}, without which nothing "
            "loads them. Take it from where the adapter was trained."
        )
    return UnknownFormat(
        f"{shown(folder)} holds neither an adapter ({CONFIG}) nor a merged model ({RECEIPT}). "
        f"Found: {first(files) or 'nothing'}. Give the folder that does."
    )


def _licence(base: str) -> tuple[dict[str, str], str]:
    """Look up the base's licence; where that fails, say so instead."""
    try:
        found = hub.resolve(parse(base, disk=False))
    except NotFound:
        return {}, (
            f"The base {shown(base)} is not on the Hub, or it is private: others may not find it."
        )
    except AdapterToolsError as error:
        return {}, f"The base's licence could not be looked up. {error}"
    return _upload_card.licence(found.card), ""


def _report(draft: Draft, target: Target, ask: Ask, *, planned: bool) -> Report:
    facts: dict[str, Any] = {
        "kind": draft.kind, "base": draft.base, "relation": draft.relation, "dry_run": planned,
        **target.facts(draft),
        "left_out": [{"name": name, "why": why} for name, why in draft.left.items()],
    }  # fmt: skip
    skipped = () if ask.check else ("validation: --no-validate",)
    said = (*draft.said, *target.said)
    return Report(verb="upload", subject=target.text, findings=said, skipped=skipped, facts=facts)
