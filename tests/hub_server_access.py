"""Who may do what on the loopback hub, and the table of its routes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.hub_server_git import Commit, Repository
from tests.hub_server_wire import Answer, Call, Refused

Route = Callable[..., Answer]
ROUTES: list[tuple[str, list[str], Route]] = []
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass(frozen=True)
class User:
    """The bearer of a token."""

    name: str
    role: str = "write"
    orgs: tuple[str, ...] = ("org",)

    def owns(self, repo_id: str) -> bool:
        return repo_id.split("/")[0] in (self.name, *self.orgs)


def route(methods: str, pattern: str) -> Callable[[Route], Route]:
    """Enter a function into the table: `*` takes one part of the path, `**` all that follow."""

    def enter(function: Route) -> Route:
        ROUTES.extend((method, pattern.split("/"), function) for method in methods.split())
        return function

    return enter


def matched(pattern: list[str], parts: list[str]) -> list[str] | None:
    """Give what the stars of a pattern stand for, None where it does not fit."""
    taken = []
    for index, piece in enumerate(pattern):
        if piece == "**":
            return [*taken, "/".join(parts[index:])]
        if index >= len(parts) or piece not in ("*", parts[index]):
            return None
        if piece == "*":
            taken.append(parts[index])
    return taken if len(parts) == len(pattern) else None


def find_route(call: Call) -> tuple[Route, list[str]]:
    for method, pattern, function in ROUTES:
        taken = matched(pattern, call.parts) if method == call.method else None
        if taken is not None:
            return function, taken
    raise Refused(404, f"Sorry, we can't find the page {call.path}.")


def user_of(call: Call) -> User | None:
    """Give who calls; refuse a token that nobody has."""
    given = call.headers.get("Authorization")
    if given is None:
        return None
    user = call.hub.users.get(given.removeprefix("Bearer ").partition("-")[0])
    if user is None:
        raise Refused(401, "Invalid credentials in Authorization header")
    return user


def unknown(call: Call, user: User | None) -> Refused:
    """Give what a caller hears of a repository that is not there, or not there for him."""
    if user is None and call.hub.bare_401:
        return Refused(401, "Invalid username or password.")
    status = 404 if user else 401
    return Refused(status, "Repository not found", "RepoNotFound")


def repository(call: Call, kinds: str, repo_id: str, need: str = "see") -> Repository:
    """Give a repository that the caller may see, read (its files' contents) or write."""
    user, hub = user_of(call), call.hub
    if (kinds, repo_id) in hub.moved:
        to = call.target.replace(repo_id, hub.moved[kinds, repo_id], 1)
        raise Refused(307, "moved", Location=to)
    repo = hub.repos.get((kinds, repo_id))
    owner = user is not None and user.owns(repo_id)
    if repo is None or (repo.private and not owner and (not user or user.name not in repo.readers)):
        raise unknown(call, user)
    if repo.disabled:
        raise Refused(403, "Access to this resource is disabled.")
    if need == "read" and repo.gated and not owner and (not user or user.name not in repo.readers):
        text = f"Access to model {repo_id} is restricted. You must have access to it."
        raise Refused(403 if user else 401, text, "GatedRepo")
    if need == "write":
        may_write(user, repo_id, repo)
    return repo


def may_write(user: User | None, repo_id: str, repo: Repository | None = None) -> None:
    """Refuse who may not write here."""
    if user is None:
        raise Refused(401, "Invalid username or password.")
    if user.role != "write":
        raise Refused(403, "Your token does not have write access: use a token with write role.")
    if not user.owns(repo_id) or (repo is not None and repo.readonly):
        where = repo_id.split("/")[0]
        raise Refused(403, f"You don't have the rights to write to {repo_id} of {where}.")


def commit_of(repo: Repository, revision: str) -> Commit:
    commit = repo.find(revision)
    if commit is None:
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit
