"""One commit on its way: the card is judged, files are sent, committed once, and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from adaptertools.errors import AdapterToolsError, HubError, first, shown
from adaptertools.hub import client, faults
from adaptertools.hub.pieces import Meter, Piece
from adaptertools.hub.repo import RemoteFile

CARD = "README.md"
_BIG = 16_000_000  # bytes; a file of more is sent on its own, so that a broken transfer costs one
_ASKED = 500  # names in one question
_SHA1 = 40  # letters; what huggingface_hub takes for a parent


class Overtaken(HubError):
    """Somebody else wrote to the branch after this upload was planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What became of an upload."""

    commit: str
    url: str
    pr_url: str | None = None


@dataclass(kw_only=True)
class Push:
    """One upload on its way."""

    name: str
    pieces: Mapping[str, Piece]
    delete: tuple[str, ...]
    message: str
    parent: str
    revision: str | None
    create_pr: bool
    sent: bool = field(default=False, init=False)  # a commit went out; its answer may be lost

    @property
    def where(self) -> str:
        """Name it for error texts."""
        return f"{self.name}@{self.revision}" if self.revision else self.name

    def branch(self, revision: str) -> None:
        """Make the branch, at the commit that was seen."""
        client.attempt(
            lambda: client.api().create_branch(
                self.name, branch=revision, revision=self.parent, exist_ok=True
            ),
            self.where,
        )

    def check_card(self) -> None:
        """Let the Hub judge the card before gigabytes are sent, and not after."""
        from huggingface_hub.utils import build_hf_headers, get_session

        if CARD not in self.pieces:
            return
        content = self.pieces[CARD].content
        text = content if isinstance(content, bytes) else content.read_bytes()
        body = {"content": text.decode(errors="replace"), "repoType": "model"}

        def ask() -> Any:
            url, headers = (
                f"{client.endpoint()}/api/validate-yaml",
                build_hf_headers(token=client.token()),
            )
            answer = get_session().post(url, json=body, headers=headers)
            if answer.status_code != 400:
                return []
            return answer.json().get("errors") or [{"message": "no reason given"}]

        if errors := client.attempt(ask, self.where):
            said = "; ".join(faults.clean(each.get("message")) for each in errors)
            raise HubError(f"{shown(self.name)}: the Hub refuses {CARD}: {said}. Mend it there.")

    def send(self, operations: Sequence[Any], meter: Meter) -> None:
        """Bring the large files to the Hub; nobody sees them before the commit."""
        sizes = {piece.name: piece.size for piece in self.pieces.values()}
        big = [each for each in operations if sizes[each.path_in_repo] >= _BIG]
        small = [each for each in operations if sizes[each.path_in_repo] < _BIG]
        for group in filter(None, (small, *([each] for each in big))):
            client.attempt(partial(self._preupload, group), self.where)
            for each in group:
                if each._upload_mode == "lfs":
                    meter.reach(each.path_in_repo, sizes[each.path_in_repo])
        if ignored := [each.path_in_repo for each in operations if each._should_ignore]:
            raise HubError(
                f"{shown(self.name)} names {first(ignored)} in its .gitignore, so the Hub would "
                "leave that out. Nothing was uploaded. Mend .gitignore there."
            )

    def _preupload(self, group: Sequence[Any]) -> None:
        client.api().preupload_lfs_files(
            self.name, group, revision=self.revision, create_pr=self.create_pr, free_memory=False
        )

    def commit(self, operations: Sequence[Any]) -> Published:
        """Make the commit, once, whatever becomes of the answers."""
        from huggingface_hub import CommitOperationDelete

        every = [*operations, *(CommitOperationDelete(each) for each in self.delete)]
        # A pull request is asked for once: another try could open another one.
        tries = 1 if self.create_pr else client.TRIES
        try:
            made = client.attempt(lambda: self._patiently(every), self.where, tries=tries)
        except Overtaken:
            raise
        except AdapterToolsError as error:
            if self.create_pr:
                error.add_note(f"A pull request may be open: see {self.page}/discussions.")
            if self.create_pr or not (found := self._landed_after(error)):
                raise
            made = found
        self._check_parent(made)
        return made

    def _patiently(self, operations: Sequence[Any]) -> Published:
        """Commit; an answer that is no JSON says nothing of what was done, so it is looked up."""
        try:
            return self._once(operations)
        except json.JSONDecodeError:
            if self.create_pr:
                raise
            return self._once(operations)

    def _once(self, operations: Sequence[Any]) -> Published:
        """Commit onto the commit that was seen; first look whether an earlier try went through."""
        if not self.create_pr and (found := self._before()):
            return found
        self.sent = True
        parent = self.parent if len(self.parent) == _SHA1 else None
        try:
            made = client.api().create_commit(
                self.name, operations, commit_message=self.message, revision=self.revision,
                create_pr=self.create_pr, parent_commit=parent,
            )  # fmt: skip
        except Exception as error:
            if faults.status(error) == 412:
                raise self._told() from error
            raise
        return Published(commit=made.oid, url=made.commit_url, pr_url=made.pr_url)

    def _before(self) -> Published | None:
        """Hold the branch against the commit that was seen; give ours where it is there already."""
        head = self._head()
        if head == self.parent:
            return None
        if self.sent and not self._faults(head):
            return Published(commit=head, url=f"{self.page}/commit/{head}")
        raise self._told(head)

    def _head(self) -> str:
        info = client.api().model_info(
            self.name, revision=self.revision, timeout=client.TIMEOUT
        )  # fmt: skip
        return str(info.sha)

    def _landed_after(self, error: AdapterToolsError) -> Published | None:
        """Look once more after the last error: the answer may be lost, and the commit be there."""
        if not self.sent:
            return None
        try:
            return self._before()
        except Exception:
            error.add_note(
                "Whether the commit was made is not known; the repository shows all of it or none. "
                "Run the same command again: it sends what is missing."
            )
            return None

    @property
    def page(self) -> str:
        """Where it is seen."""
        return f"{client.endpoint()}/{self.name}"

    def _told(self, head: str = "") -> Overtaken:
        now = f", and it is at {head[:8]} now" if head else ""
        return Overtaken(
            f"{shown(self.where)} was changed by somebody else in the meantime: this upload was "
            f"planned on {self.parent[:8]}{now}. Nothing of it was published. Look at what is new, "
            "and run the command again."
        )

    def _check_parent(self, made: Published) -> None:
        """Find out where a server takes no notice of the parent, as some do."""
        if self.create_pr or made.commit == self.parent:
            return
        parent = self._parent_of(made.commit)
        if parent not in ("", self.parent):
            raise HubError(
                f"{shown(self.where)}: commit {parent[:8]} came in between, and this server does "
                f"not guard against that: {made.url} lies on top of it, and files of both may be "
                "mixed. Look at them, and run the command again to make them agree."
            )

    def _parent_of(self, commit: str) -> str:
        """Ask for the commit before one; empty where the server does not say."""
        from huggingface_hub.utils import build_hf_headers, get_session

        url = f"{client.endpoint()}/api/models/{self.name}/commits/{commit}"
        try:
            answer = get_session().get(url, headers=build_hf_headers(token=client.token()))
            rows = answer.json() if answer.status_code == 200 else []
            return str(rows[1]["id"]) if rows[0]["id"] == commit else ""
        except Exception:  # an extra question; without an answer the guards before it must do
            return ""

    def check(self, made: Published) -> None:
        """Compare what the Hub now holds with what was sent.

        Raises HubError where anything differs.
        """
        wrong = client.attempt(lambda: self._faults(made.commit), self.where)
        if wrong:
            raise HubError(
                f"{shown(self.where)} does not hold what was sent: {first(wrong, 3)}. "
                "Run the command again; if it stays so, tell who runs the server."
            )

    def _faults(self, commit: str) -> list[str]:
        """Say what of this upload a commit does not hold."""
        from huggingface_hub.hf_api import RepoFile

        names, held = [*self.pieces, *self.delete], {}
        for start in range(0, len(names), _ASKED):
            for row in client.api().get_paths_info(
                self.name, names[start : start + _ASKED], revision=commit
            ):
                if isinstance(row, RepoFile):
                    sha256 = row.lfs.sha256 if row.lfs else None
                    held[row.path] = RemoteFile(
                        name=row.path, size=row.size, blob=row.blob_id, sha256=sha256
                    )
        found = [f"{n}: {why}" for n, p in self.pieces.items() if (why := p.fault(held.get(n)))]
        return found + [f"{name}: it is still there" for name in self.delete if name in held]
