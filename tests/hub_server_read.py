"""What the loopback hub tells: repositories, trees, files by path, refs, commits, lists."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlencode

from tests.hub_server_access import User, commit_of, repository, route, user_of
from tests.hub_server_card import card_of, config_of, library_of, tags_of
from tests.hub_server_files import kind_of, xet_hash
from tests.hub_server_git import Commit, Entry, Repository
from tests.hub_server_wire import Answer, Call, Refused, as_json


def stamp(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


@route("GET", "api/whoami-v2")
def whoami(call: Call) -> Answer:
    user = user_of(call)
    if user is None:
        raise Refused(401, "Invalid username or password.")
    orgs = [{"name": name, "type": "org"} for name in user.orgs]
    access = {"displayName": "test", "role": user.role}
    return as_json({"type": "user", "name": user.name, "fullname": user.name, "orgs": orgs,
                    "auth": {"type": "access_token", "accessToken": access}})  # fmt: skip


@route("GET HEAD", "api/*/*/*")
def info_of_main(call: Call, kinds: str, space: str, name: str) -> Answer:
    return info_of_revision(call, kinds, space, name, "main")


@route("GET HEAD", "api/*/*/*/revision/*")
def info_of_revision(call: Call, kinds: str, space: str, name: str, revision: str) -> Answer:
    kind_of(kinds)
    repo = repository(call, kinds, f"{space}/{name}")
    commit = commit_of(repo, revision)
    told = described(repo, commit)
    told["siblings"] = [sibling(*item, call.flag("blobs")) for item in sorted(commit.files.items())]
    if call.flag("securityStatus"):
        issues = [{"path": path, "level": level} for path, level in repo.scan.items()]
        told["securityRepoStatus"] = {
            "scansDone": "queued" not in repo.scan.values(),
            "filesWithIssues": [one for one in issues if one["level"] not in ("safe", "queued")],
        }
    return as_json(expanded(told, call))


def described(repo: Repository, commit: Commit) -> dict[str, Any]:
    """Give what the Hub tells of a repository."""
    return {
        "_id": "0" * 24, "id": repo.id, "modelId": repo.id, "author": repo.id.split("/")[0],
        "sha": commit.id, "private": repo.private, "gated": repo.gated, "disabled": repo.disabled,
        "downloads": repo.downloads, "likes": repo.likes, "tags": tags_of(repo, commit),
        "library_name": library_of(repo, commit), "cardData": card_of(repo, commit) or None,
        "config": config_of(repo, commit),
        "createdAt": stamp(commit.time), "lastModified": stamp(commit.time),
        "usedStorage": sum(entry.size for entry in commit.files.values()),
    }  # fmt: skip


def expanded(told: dict[str, Any], call: Call) -> dict[str, Any]:
    """Keep what `expand` names, where it names something."""
    wanted = call.query.get("expand", []) + call.query.get("expand[]", [])
    return {k: v for k, v in told.items() if not wanted or k in ("_id", "id", *wanted)}


def sibling(name: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"rfilename": name}
    if blobs:
        told |= {"size": entry.size, "blobId": entry.blob}
        if entry.sha256:
            size = {"size": entry.size, "pointerSize": len(entry.pointer)}
            told["lfs"] = {"sha256": entry.sha256, **size}
    return told


@route("GET", "api/*/*/*/tree/*/**")
def tree(call: Call, kinds: str, space: str, name: str, revision: str, below: str) -> Answer:
    repo = repository(call, kinds, f"{space}/{name}")
    commit = commit_of(repo, revision)
    rows = listing(call, repo, commit, below, call.flag("recursive"))
    if below and not rows:
        raise Refused(404, f"{below} does not exist on {revision}", "EntryNotFound")
    return paged(call, rows, 50 if call.flag("expand") else call.hub.page)


@route("GET", "api/*/*/*/tree/*")
def tree_of_all(call: Call, kinds: str, space: str, name: str, revision: str) -> Answer:
    return tree(call, kinds, space, name, revision, "")


def listing(call: Call, repo: Repository, commit: Commit, below: str, deep: bool) -> list[Any]:
    start = f"{below.strip('/')}/" if below.strip("/") else ""
    rows, folders = [], {}
    for path, entry in sorted(commit.files.items()):
        if not path.startswith(start):
            continue
        ups = path[len(start) :].split("/")[:-1]
        for depth in range(1, len(ups) + 1 if deep else min(2, len(ups) + 1)):
            folder = start + "/".join(ups[:depth])
            folders[folder] = folder_row(repo, commit, folder)
        if deep or not ups:
            rows.append(file_row(call, repo, commit, path, entry))
    return [*folders.values(), *rows]


def folder_row(repo: Repository, commit: Commit, path: str) -> dict[str, Any]:
    inside = {k[len(path) + 1 :]: v for k, v in commit.files.items() if k.startswith(f"{path}/")}
    return {"type": "directory", "oid": repo.store.tree(inside), "size": 0, "path": path}


def file_row(
    call: Call, repo: Repository, commit: Commit, path: str, entry: Entry, expand: bool = False
) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "oid": entry.blob, "size": entry.size, "path": path}
    if entry.sha256:
        size = {"size": entry.size, "pointerSize": len(entry.pointer)}
        row["lfs"] = {"oid": entry.sha256, **size}
        if call.hub.xet:
            row["xetHash"] = xet_hash(entry)
    if expand or call.flag("expand"):
        row["lastCommit"] = {"id": commit.id, "title": commit.title, "date": stamp(commit.time)}
        status = repo.scan.get(path, "safe")
        scans = {"avScan": {"status": status}, "pickleImportScan": {"status": status}}
        row["securityFileStatus"] = {"status": status, **scans}
    return row


@route("POST", "api/*/*/*/paths-info/*")
def paths_info(call: Call, kinds: str, space: str, name: str, revision: str) -> Answer:
    repo = repository(call, kinds, f"{space}/{name}")
    commit = commit_of(repo, revision)
    if "json" in call.headers.get("Content-Type", ""):
        asked = call.json()
        paths, expand = asked["paths"], bool(asked.get("expand"))
    else:
        form = parse_qs(call.body.decode())
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
    rows = []
    for path in paths:
        if path in commit.files:
            rows.append(file_row(call, repo, commit, path, commit.files[path], expand))
        elif any(known.startswith(f"{path.rstrip('/')}/") for known in commit.files):
            rows.append(folder_row(repo, commit, path.rstrip("/")))
    return as_json(rows)


@route("GET", "api/*/*/*/commits/*")
def commits(call: Call, kinds: str, space: str, name: str, revision: str) -> Answer:
    repo = repository(call, kinds, f"{space}/{name}")
    rows, next_one = [], commit_of(repo, revision).id
    while next_one:
        commit = repo.commits[next_one]
        rows.append({"id": commit.id, "title": commit.title, "message": commit.text,
                     "authors": [{"user": commit.author}], "date": stamp(commit.time)})  # fmt: skip
        next_one = commit.parents[0] if commit.parents else ""
    return paged(call, rows, call.hub.page)


@route("GET", "api/*/*/*/refs")
def refs(call: Call, kinds: str, space: str, name: str) -> Answer:
    repo = repository(call, kinds, f"{space}/{name}")
    told: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": []}
    if call.flag("include_prs"):
        told["pullRequests"] = []
    rooms = {"refs/heads/": "branches", "refs/tags/": "tags", "refs/pr/": "pullRequests"}
    for ref, target in repo.refs.items():
        start = next(one for one in rooms if ref.startswith(one))
        short = ref if start == "refs/pr/" else ref.removeprefix(start)
        told.get(rooms[start], []).append({"name": short, "ref": ref, "targetCommit": target})
    return as_json(told)


@route("GET", "api/*/*/*/auth-check/**")
def auth_check(call: Call, kinds: str, space: str, name: str, way: str) -> Answer:
    repository(call, kinds, f"{space}/{name}", "write" if way == "write" else "read")
    return as_json({})


@route("GET", "api/*/*/*/auth-check")
def auth_check_read(call: Call, kinds: str, space: str, name: str) -> Answer:
    return auth_check(call, kinds, space, name, "")


@route("GET", "api/*")
def list_of(call: Call, kinds: str) -> Answer:
    """List repositories: filters all hold, author, search, sort, pages."""
    kind_of(kinds)
    user, query = user_of(call), call.query
    rows = []
    for (room, repo_id), repo in sorted(call.hub.repos.items()):
        if room == kinds and visible(repo, user) and wanted(repo, repo_id, query):
            told = described(repo, repo.head)
            if call.flag("full") or "siblings" in query.get("expand", []):
                told["siblings"] = [{"rfilename": path} for path in sorted(repo.head.files)]
            rows.append(told)
    sort = query.get("sort", ["downloads"])[0]
    rows.sort(key=lambda told: told.get(sort) or 0, reverse=True)
    size = min(int(query.get("limit", ["1000"])[0]), call.hub.page)
    heavy = () if call.flag("full") or call.flag("cardData") else ("cardData",)
    if "expand" in query:
        return paged(call, [expanded(told, call) for told in rows], size)
    return paged(call, [{k: v for k, v in t.items() if k not in heavy} for t in rows], size)


def visible(repo: Repository, user: User | None) -> bool:
    return not repo.private or (user is not None and user.owns(repo.id))


def wanted(repo: Repository, repo_id: str, query: dict[str, list[str]]) -> bool:
    tags = set(tags_of(repo, repo.head))
    return (
        tags.issuperset(query.get("filter", []))
        and all(author == repo_id.split("/")[0] for author in query.get("author", []))
        and all(word.lower() in repo_id.lower() for word in query.get("search", []))
    )


def paged(call: Call, rows: list[Any], size: int) -> Answer:
    """Give one page and, in Link, the address of the next."""
    start = int(call.query.get("cursor", ["0"])[0])
    answer = as_json(rows[start : start + size])
    if start + size < len(rows):
        query = {**call.query, "cursor": [str(start + size)]}
        where = f"{call.hub.endpoint}{call.target.split('?')[0]}?{urlencode(query, doseq=True)}"
        answer.headers["Link"] = f'<{where}>; rel="next"'
    return answer
