"""The bytes: resolve with its redirects, the second origin that holds large files, dead xet."""

from __future__ import annotations

from urllib.parse import quote

from tests.hub_server_access import KINDS, commit_of, repository, route
from tests.hub_server_git import Entry, Repository
from tests.hub_server_wire import Answer, Call, Refused


@route("GET HEAD", "*/*/resolve/refs/pr/*/**")
def resolve_pull(call: Call, space: str, name: str, number: str, path: str) -> Answer:
    return resolve(call, "models", f"{space}/{name}", f"refs/pr/{number}", path)


@route("GET HEAD", "*/*/resolve/*/**")
@route("GET HEAD", "*/*/raw/*/**")
def resolve_model(call: Call, space: str, name: str, revision: str, path: str) -> Answer:
    return resolve(call, "models", f"{space}/{name}", revision, path)


@route("GET HEAD", "datasets/*/*/resolve/*/**")
def resolve_dataset(call: Call, space: str, name: str, revision: str, path: str) -> Answer:
    return resolve(call, "datasets", f"{space}/{name}", revision, path)


def resolve(call: Call, kinds: str, repo_id: str, revision: str, path: str) -> Answer:
    """Send a caller to a file: large ones to the second origin, small ones to the resolve cache."""
    repo = repository(call, kinds, repo_id, "read")
    commit = commit_of(repo, revision)
    if path not in commit.files:
        text, told = "Entry not found", {"X-Repo-Commit": commit.id}
        raise Refused(404, text, "EntryNotFound", **told)
    entry = commit.files[path]
    told = {"X-Repo-Commit": commit.id, "ETag": f'"{entry.etag}"', "Accept-Ranges": "bytes"}
    if entry.sha256:
        told |= {"X-Linked-Size": str(entry.size), "X-Linked-Etag": f'"{entry.etag}"'}
        where = f"{call.hub.cdn}/{repo_id}/{entry.sha256}/{quote(path)}?signature=1"
        if call.hub.xet:
            link = f"{call.hub.endpoint}/api/{kinds}/{repo_id}/xet-read-token/{commit.id}"
            told |= {"X-Xet-Hash": xet_hash(entry), "Link": f'<{link}>; rel="xet-auth"'}
        return Answer(302, b"", told | {"Location": where})
    if call.hub.resolve_cache and not call.path.startswith("/api/"):
        where = f"/api/resolve-cache/{kinds}/{repo_id}/{commit.id}/{quote(path)}"
        return Answer(307, b"", told | {"Location": where})
    return content(repo, entry, told)


def xet_hash(entry: Entry) -> str:
    return (entry.sha256 or "")[::-1]


def content(repo: Repository, entry: Entry, told: dict[str, str]) -> Answer:
    told["Content-Type"] = "text/plain; charset=utf-8"
    return Answer(200, repo.store.read(entry), told, stored=True)


@route("GET HEAD", "api/resolve-cache/*/*/*/*/**")
def resolve_cache(call: Call, kinds: str, space: str, name: str, sha: str, path: str) -> Answer:
    return resolve(call, kinds, f"{space}/{name}", sha, path)


@route("GET", "api/*/*/*/xet-read-token/*")
def xet_read(call: Call, kinds: str, space: str, name: str, revision: str) -> Answer:
    """Point to a content store that nobody answers for."""
    commit_of(repository(call, kinds, f"{space}/{name}", "read"), revision)
    told = {
        "X-Xet-Cas-Url": call.hub.nowhere,
        "X-Xet-Access-Token": "xet-token",
        "X-Xet-Token-Expiration": "4102444800",
    }
    return Answer(200, b"{}", told)


# No route for xet-write-token: a hub without xet answers 404.


@route("GET HEAD", "cdn/*/*/*/**")
def large(call: Call, space: str, name: str, sha256: str, path: str) -> Answer:
    """Give a large file; whoever brings a token is turned away."""
    if sha256 not in call.hub.store.large:
        raise Refused(404, f"no {space}/{name} {path} here")
    told = {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"}
    return Answer(200, call.hub.store.large[sha256], told, stored=True)


@route("PUT", "cdn/upload/*/*/*/*")
def upload_part(call: Call, space: str, name: str, sha256: str, part: str) -> Answer:
    """Take a large file (part 0) or one part of it."""
    import hashlib

    if part == "0":
        if hashlib.sha256(call.body).hexdigest() != sha256:
            raise Refused(400, f"{space}/{name}: this is not the content that was announced.")
        call.hub.store.large[sha256] = call.body
    else:
        call.hub.parts[sha256, int(part)] = call.body
    return Answer(200, b"", {"ETag": f'"{hashlib.md5(call.body).hexdigest()}"'})


def kind_of(kinds: str) -> str:
    if kinds not in KINDS:
        raise Refused(404, f"Sorry, we can't find the page {kinds}.")
    return KINDS[kinds]
