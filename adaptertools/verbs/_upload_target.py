"""Where an upload goes: what is there now, what will change, and the sending itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from adaptertools.errors import NotFound, Unsafe, Unsupported, first, shown
from adaptertools.hub import push, store_push, stores
from adaptertools.hub.commit import Published
from adaptertools.hub.pieces import Piece
from adaptertools.hub.repo import Repo
from adaptertools.ref import Ref, parse
from adaptertools.report import Finding
from adaptertools.verbs._upload_choice import CARD
from adaptertools.verbs._upload_draft import Draft

_KEPT = (".gitattributes", stores.RECEIPT)  # what the Hub, or a store's upload, needs for itself
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


@dataclass(kw_only=True)
class Target:
    """A repository or a store's folder."""

    ref: Ref
    revision: str | None
    private: bool
    create_pr: bool
    repo: Repo | None  # what is there now; None where there is nothing
    new_branch: bool = False
    change: dict[str, str] = field(default_factory=dict)  # file -> new, changed, same
    pieces: dict[str, Piece] = field(default_factory=dict)
    deleted: tuple[str, ...] = ()
    done: Published | None = None
    said: list[Finding] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What the user calls it."""
        return self.ref.text

    @property
    def name(self) -> str:
        """Its name: user/repo, as the Hub has it now, or the last part of an address."""
        if self.ref.repo and self.repo:
            return self.repo.id
        return self.ref.repo or str(self.ref.url).rstrip("/").rpartition("/")[2]

    @property
    def pending(self) -> bool:
        """Whether anything is to be done."""
        changed = any(each != "same" for each in self.change.values())
        return changed or bool(self.deleted) or self.new_branch

    @property
    def nbytes(self) -> int:
        """How much is to be sent."""
        return sum(piece.size for name, piece in self.pieces.items() if self._goes(name))

    def _goes(self, name: str) -> bool:
        # A store's receipt lists every file, so that all of them are written.
        return self.change[name] != "same" or self.ref.url is not None

    def card(self) -> str | None:
        """Give the card that is there now; None where there is none."""
        if self.repo is None or CARD not in self.repo.files:
            return None
        if self.ref.url is None:
            return push.read_card(self.name, self.repo)
        data = stores.read(self.ref.url, CARD, 0, self.repo.files[CARD].size or 0)
        return data.decode("utf-8", errors="replace")

    def compare(self, draft: Draft, *, delete_others: bool) -> None:
        """Hold what is to be sent against what is there."""
        there = self.repo.files if self.repo else {}
        for name, content in sorted(draft.contents.items()):
            piece = self.pieces[name] = Piece(name, content)
            self.change[name] = (
                "new" if name not in there else "same" if piece.there(there[name]) else "changed"
            )
        others = [name for name in there if name not in draft.contents and name not in _KEPT]
        self.deleted = tuple(sorted(others)) if delete_others else ()
        if stale := [n for n in others if n.endswith(_WEIGHTS) and n not in self.deleted]:
            self.say(
                "UPL008", f"There are other weights already: {first(stale)}. Some programs load "
                "every file of weights. --delete-others takes them away."
            )  # fmt: skip

    def say(self, code: str, text: str) -> None:
        """Keep a warning."""
        self.said.append(Finding(code=code, level="warning", place=self.text, text=text))

    def send(self, draft: Draft, message: str, advance: Callable[[int], None]) -> None:
        """Publish it."""
        parent = self.repo.commit if self.repo else None
        if self.ref.url is not None:
            self.done = store_push.push(
                self.ref.url, draft.contents, delete=self.deleted, parent=parent, source=draft.base,
                progress=advance,
            )  # fmt: skip
            return
        files = {name: piece for name, piece in self.pieces.items() if self._goes(name)}
        self.done = push.publish(
            self.name, files, delete=self.deleted, message=message, revision=self.revision,
            create_pr=self.create_pr, private=self.private, parent=parent,
            new_branch=self.new_branch, progress=advance,
        )  # fmt: skip

    def facts(self, draft: Draft) -> dict[str, Any]:
        """Say what is there, what changes and what came of it."""
        commit = self.done.commit if self.done else self.repo.commit if self.repo else None
        return {
            "repo": self.name, "revision": self.revision, "new": self.repo is None,
            "private": self.private if self.repo is None else self.repo.private,
            "commit": commit, "url": self.done.url if self.done else None,
            "pr_url": self.done.pr_url if self.done else None, "changed": self.pending,
            "bytes": self.nbytes,
            "files": [
                {"name": name, "size": self.pieces[name].size, "change": change,
                 "note": draft.notes.get(name, "")}
                for name, change in self.change.items()
            ],
            "deleted": list(self.deleted),
        }  # fmt: skip


def aim(text: str, *, revision: str | None, private: bool, create_pr: bool) -> Target:
    """Look at the place that a text names.

    Raises NotFound where it names none, Unsupported and Unsafe where it cannot take this upload.
    """
    ref = parse(text, disk=False)
    if ref.url is not None:
        if revision or create_pr or private:
            raise Unsupported(
                f"{shown(text)} is a store, which has no revisions, no pull requests and its own "
                "permissions. Leave --revision, --create-pr and --private out."
            )
        there = stores.held(ref.url)
        return Target(ref=ref, revision=None, private=False, create_pr=False, repo=there)
    if ref.repo is None or ref.subfolder:
        raise NotFound(
            f"{shown(text)} is no repository to upload to. Give user/repo, user/repo@branch or the "
            "address of a store; an adapter has a repository of its own."
        )
    if revision and ref.revision and revision != ref.revision:
        raise Unsupported(f"{shown(text)} names another branch than --revision {shown(revision)}.")
    return _on_hub(ref, revision or ref.revision, private, create_pr)


def _on_hub(ref: Ref, revision: str | None, private: bool, create_pr: bool) -> Target:
    if create_pr and revision not in (None, push.BRANCH):
        raise Unsupported(
            f"--create-pr proposes changes to {push.BRANCH}; leave --revision {shown(revision)} "
            "out. To add to a pull request, give --revision refs/pr/N without --create-pr."
        )
    place = push.look(str(ref.repo), revision)
    name = place.repo.id if place.repo else str(ref.repo)
    if place.repo is None and create_pr:
        raise NotFound(f"{shown(ref.repo)} is not there, so no pull request can be opened on it. "
                       "Leave --create-pr out to make it.")  # fmt: skip
    if private and place.repo is not None and not place.repo.private:
        raise Unsafe(
            f"{shown(ref.repo)} is public already, and --private is for one that is made. Make it "
            "private in its settings first, or leave --private out."
        )
    target = Target(
        ref=ref, revision=revision, private=private, create_pr=create_pr, repo=place.repo,
        new_branch=place.new_branch,
    )  # fmt: skip
    if name.lower() != str(ref.repo).lower():
        target.say("UPL009", f"{shown(ref.repo)} is called {shown(name)} now.")
    return target
