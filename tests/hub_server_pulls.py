"""Pull requests, branches and tags of the loopback hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.hub_server_access import commit_of, may_write, repository, route, user_of
from tests.hub_server_git import Commit, Entry, Repository
from tests.hub_server_wire import Answer, Call, Refused, as_json

NOON = "2023-11-14T12:00:00.000Z"


def open_pull(
    repo: Repository,
    old: Commit,
    files: Mapping[str, Entry],
    ref: str,
    told: tuple[str, str, str],
    status: str = "open",
) -> int:
    """Open a pull request with one commit; give its number."""
    number = len(repo.pulls) + 1
    new = repo.write(files, f"refs/pr/{number}", (old.id,), *told)
    events = [event("comment", told[2], edited=False, hidden=False, latest={"raw": told[1]})]
    events.append(event("commit", told[2], subject=told[0], oid=new.id))
    repo.pulls.append({
        "num": number, "title": told[0], "author": {"name": told[2]}, "createdAt": NOON,
        "status": status, "isPullRequest": True, "repo": {"name": repo.id, "type": repo.kind},
        "events": events, "changes": {"base": ref}, "filesWithConflicts": [], "diff": "",
    })  # fmt: skip
    return number


def event(kind: str, author: str, **data: Any) -> dict[str, Any]:
    return {"id": "0" * 24, "type": kind, "createdAt": NOON, "author": {"name": author},
            "data": data}  # fmt: skip


def pull_of(repo: Repository, number: str) -> dict[str, Any]:
    if not number.isdigit() or not 0 < int(number) <= len(repo.pulls):
        raise Refused(404, f"There is no discussion {number}.")
    return repo.pulls[int(number) - 1]


@route("GET", "api/*/*/*/discussions")
def discussions(call: Call, kinds: str, space: str, name: str) -> Answer:
    repo = repository(call, kinds, f"{space}/{name}")
    states = call.query.get("status", [""])[0]
    rows = [pull for pull in repo.pulls if states in ("", "all", pull["status"])]
    return as_json({"discussions": rows, "count": len(rows), "start": 0})


@route("POST", "api/*/*/*/discussions")
def new_discussion(call: Call, kinds: str, space: str, name: str) -> Answer:
    """Open a draft without changes."""
    repo, user, asked = repository(call, kinds, f"{space}/{name}"), user_of(call), call.json()
    if user is None:
        raise Refused(401, "Invalid username or password.")
    told = (asked["title"], asked.get("description", ""), user.name)
    with call.hub.lock:
        number = open_pull(repo, repo.head, repo.head.files, "refs/heads/main", told, "draft")
    return as_json(pull_of(repo, str(number)))


@route("GET", "api/*/*/*/discussions/*")
def discussion(call: Call, kinds: str, space: str, name: str, number: str) -> Answer:
    return as_json(pull_of(repository(call, kinds, f"{space}/{name}"), number))


@route("POST", "api/*/*/*/discussions/*/*")
def change_discussion(
    call: Call, kinds: str, space: str, name: str, number: str, what: str
) -> Answer:
    """Comment, rename, open, close or merge."""
    repo, user = repository(call, kinds, f"{space}/{name}"), user_of(call)
    pull, asked = pull_of(repo, number), call.json() or {}
    author = user.name if user else ""
    if what == "merge":
        may_write(user, repo.id, repo)
        with call.hub.lock:
            return merged(repo, pull, author)
    if what == "comment":
        new = event("comment", author, edited=False, hidden=False,
                    latest={"raw": asked["comment"]})  # fmt: skip
        pull["events"].append(new)
        return as_json({"newMessage": new})
    if what == "status":
        pull["status"] = asked["status"]
        new = event("status-change", author, status=asked["status"])
        return as_json({"newStatus": new})
    if what == "title":
        new = event("title-change", author, **{"from": pull["title"], "to": asked["title"]})
        pull["title"] = asked["title"]
        return as_json({"newTitle": new})
    raise Refused(404, f"Sorry, we can't do {what}.")


def merged(repo: Repository, pull: dict[str, Any], author: str) -> Answer:
    """Apply to the target what the pull request changed; 409 where both changed a file."""
    if pull["status"] not in ("open", "draft"):
        raise Refused(409, "The pull request is not open.")
    tip = repo.commits[repo.refs[f"refs/pr/{pull['num']}"]]
    first = tip
    while first.parents and first.parents[0] not in history(repo, pull["changes"]["base"]):
        first = repo.commits[first.parents[0]]
    old = repo.commits[first.parents[0]].files
    target = repo.commits[repo.refs[pull["changes"]["base"]]]
    files = dict(target.files)
    for path in old.keys() | tip.files.keys():
        if old.get(path) == tip.files.get(path):
            continue
        if target.files.get(path) not in (old.get(path), tip.files.get(path)):
            raise Refused(409, f"Conflict in {path}")
        files.pop(path, None)
        if path in tip.files:
            files[path] = tip.files[path]
    parents = (target.id, tip.id)
    new = repo.write(files, pull["changes"]["base"], parents, pull["title"], "", author)
    pull["status"] = "merged"
    pull["changes"]["mergeCommitId"] = new.id
    return as_json({"mergeCommitId": new.id})


def history(repo: Repository, ref: str) -> set[str]:
    seen, todo = set(), [repo.refs[ref]]
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            todo.extend(repo.commits[one].parents)
    return seen


@route("POST", "api/*/*/*/branch/*")
def new_branch(call: Call, kinds: str, space: str, name: str, branch: str) -> Answer:
    repo = repository(call, kinds, f"{space}/{name}", "write")
    if f"refs/heads/{branch}" in repo.refs:
        raise Refused(409, f"Reference already exists: {branch}")
    start = (call.json() or {}).get("startingPoint") or "main"
    repo.refs[f"refs/heads/{branch}"] = commit_of(repo, start).id
    return as_json({})


@route("POST", "api/*/*/*/tag/*")
def new_tag(call: Call, kinds: str, space: str, name: str, revision: str) -> Answer:
    repo, tag = repository(call, kinds, f"{space}/{name}", "write"), call.json()["tag"]
    if f"refs/tags/{tag}" in repo.refs:
        raise Refused(409, f"Tag reference already exists: {tag}")
    repo.refs[f"refs/tags/{tag}"] = commit_of(repo, revision).id
    return as_json({})


@route("DELETE", "api/*/*/*/branch/*")
@route("DELETE", "api/*/*/*/tag/*")
def drop_ref(call: Call, kinds: str, space: str, name: str, short: str) -> Answer:
    repo = repository(call, kinds, f"{space}/{name}", "write")
    room = "refs/heads/" if "/branch/" in call.target else "refs/tags/"
    if repo.refs.pop(room + short, None) is None:
        raise Refused(404, f"Reference does not exist: {short}", "RevisionNotFound")
    return as_json({})
