"""What changes the loopback hub: repositories, preupload, LFS, commits, branches and tags."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any

from tests.hub_server_access import KINDS, commit_of, may_write, repository, route, user_of
from tests.hub_server_card import judged
from tests.hub_server_git import ATTRIBUTES, Commit, Entry, Repository, is_large
from tests.hub_server_pulls import open_pull
from tests.hub_server_wire import Answer, Call, Refused, as_json

STALE = "A commit has happened since. Please refresh and try again."


@route("POST", "api/repos/create")
def create(call: Call) -> Answer:
    asked, user = call.json(), user_of(call)
    space = asked.get("organization") or (user.name if user else "")
    repo_id, kinds = f"{space}/{asked['name']}", f"{asked.get('type') or 'model'}s"
    may_write(user, repo_id)
    url = f"{call.hub.endpoint}/{'' if kinds == 'models' else kinds + '/'}{repo_id}"
    with call.hub.lock:
        if (kinds, repo_id) in call.hub.repos:
            return as_json({"error": "You already created this model repo", "url": url}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        files = {".gitattributes": ATTRIBUTES}
        call.hub.add(repo_id, files, kind=KINDS[kinds], private=private)
    return as_json({"url": url, "name": repo_id, "id": repo_id})


@route("DELETE", "api/repos/delete")
def delete(call: Call) -> Answer:
    asked, user = call.json(), user_of(call)
    space = asked.get("organization") or (user.name if user else "")
    key = (f"{asked.get('type') or 'model'}s", f"{space}/{asked['name']}")
    repository(call, *key, "write")
    del call.hub.repos[key]
    return as_json({})


@route("POST", "api/repos/move")
def move(call: Call) -> Answer:
    asked = call.json()
    repository(call, f"{asked['type']}s", asked["fromRepo"], "write")
    may_write(user_of(call), asked["toRepo"])
    call.hub.move(asked["fromRepo"], asked["toRepo"], f"{asked['type']}s")
    return as_json({})


@route("PUT", "api/*/*/*/settings")
def settings(call: Call, kinds: str, space: str, name: str) -> Answer:
    repo, asked = repository(call, kinds, f"{space}/{name}", "write"), call.json()
    repo.gated = asked.get("gated", repo.gated)
    repo.private = asked.get("visibility", "private" if repo.private else "") == "private"
    return as_json(asked)


@route("POST", "api/validate-yaml")
def validate_yaml(call: Call) -> Answer:
    errors, warnings = judged(call.json()["content"])
    told = {
        "errors": [{"message": text} for text in errors],
        "warnings": [{"message": text} for text in warnings],
    }
    return as_json(told, 400 if errors else 200)


@route("POST", "api/*/*/*/preupload/*")
def preupload(call: Call, kinds: str, space: str, name: str, revision: str) -> Answer:
    """Tell for each file how it is to be sent and what is there under its name."""
    need = "see" if call.flag("create_pr") else "write"
    repo = repository(call, kinds, f"{space}/{name}", need)
    files, told = commit_of(repo, revision).files, []
    for file in call.json()["files"]:
        sample = base64.b64decode(file.get("sample") or "")
        large = is_large(file["path"], file["size"], sample)
        row = {"path": file["path"], "uploadMode": "lfs" if large else "regular"}
        row |= {"shouldIgnore": False}
        if file["path"] in files:
            row["oid"] = files[file["path"]].etag
        told.append(row)
    return as_json({"files": told, "commitOid": commit_of(repo, revision).id})


@route("POST", "*/*/info/lfs/objects/batch")
def batch(call: Call, space: str, name: str) -> Answer:
    """Tell where large files go, in one piece or in parts."""
    repository(call, "models", f"{space}/{name.removesuffix('.git')}", "see")
    if user_of(call) is None:
        raise Refused(401, "Invalid username or password.")
    asked, hub, objects = call.json(), call.hub, []
    for one in asked["objects"]:
        row: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
        if one["oid"] not in hub.store.large:
            row["actions"] = actions(call, one["oid"], one["size"])
        objects.append(row)
    parts = hub.part_size and "multipart" in asked.get("transfers", [])
    return as_json({"transfer": "multipart" if parts else "basic", "objects": objects})


def actions(call: Call, sha256: str, size: int) -> dict[str, Any]:
    hub, where = call.hub, f"{call.hub.endpoint}/{call.path.strip('/')}"
    where = where.removesuffix("/objects/batch")
    verify = {"href": f"{where}/verify", "header": {}}
    home = f"{hub.cdn}/upload/{'/'.join(call.parts[:2]).removesuffix('.git')}/{sha256}"
    if hub.part_size and "multipart" in call.json().get("transfers", []):
        count = -(-size // hub.part_size)
        urls = {f"{n:05d}": f"{home}/{n}" for n in range(1, count + 1)}
        header = {"chunk_size": str(hub.part_size), **urls}
        return {"upload": {"href": f"{where}/complete", "header": header}, "verify": verify}
    upload = {"href": f"{home}/0", "header": {}}
    return {"upload": upload, "verify": verify}


@route("POST", "*/*/info/lfs/complete")
def complete(call: Call, space: str, name: str) -> Answer:
    """Join the parts of a large file."""
    asked, hub = call.json(), call.hub
    numbers = sorted(part["partNumber"] for part in asked["parts"])
    data = b"".join(hub.parts.get((asked["oid"], number), b"") for number in numbers)
    if hashlib.sha256(data).hexdigest() != asked["oid"]:
        raise Refused(400, f"{space}/{name}: the parts do not make the file that was announced.")
    hub.store.large[asked["oid"]] = data
    return as_json({})


@route("POST", "*/*/info/lfs/verify")
def verify(call: Call, space: str, name: str) -> Answer:
    asked = call.json()
    if len(call.hub.store.large.get(asked["oid"], b"")) != asked["size"]:
        raise Refused(404, f"{space}/{name}: no such object")
    return as_json({})


@route("POST", "api/*/*/*/commit/*")
def commit(call: Call, kinds: str, space: str, name: str, revision: str) -> Answer:
    """Make one commit of all lines, or none."""
    pull = call.flag("create_pr")
    repo = repository(call, kinds, f"{space}/{name}", "see" if pull else "write")
    user = user_of(call)
    if user is None or user.role != "write":
        raise Refused(403 if user else 401, "You need a token that may write.")
    lines = [json.loads(line) for line in call.body.decode().splitlines() if line.strip()]
    head = next(line["value"] for line in lines if line["key"] == "header")
    with call.hub.lock:
        ref = repo.ref_of(revision)
        old = base_of(call, repo, revision, ref, head.get("parentCommit"))
        files = applied(call, repo, old, lines)
        told = (head["summary"], head.get("description", ""), user.name)
        if pull:
            number = open_pull(repo, old, files, ref or revision, told)
            new = repo.commits[repo.refs[f"refs/pr/{number}"]]
        else:
            new = repo.write(files, str(ref), (old.id,), *told)
    url = f"{call.hub.endpoint}/{'' if kinds == 'models' else kinds + '/'}{repo.id}"
    answer = {"success": True, "commitOid": new.id, "commitUrl": f"{url}/commit/{new.id}"}
    if pull:
        answer["pullRequestUrl"] = f"{url}/discussions/{number}"
    return as_json(answer)


def base_of(
    call: Call, repo: Repository, revision: str, ref: str | None, parent: str | None
) -> Commit:
    """Give the commit to build upon; 412 where the caller built upon an older one."""
    if ref is None:
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    old = repo.commits[repo.refs[ref]]
    if parent and not call.hub.ignores_parent and not old.id.startswith(parent):
        if call.flag("create_pr"):
            return commit_of(repo, parent)
        raise Refused(412, STALE)
    return old


def applied(call: Call, repo: Repository, old: Commit, lines: list[Any]) -> dict[str, Entry]:
    """Give the listing after all lines; refuse what cannot be done."""
    files = dict(old.files)
    for line in lines:
        key, value = line["key"], line["value"]
        if key == "file":
            try:
                data = base64.b64decode(value["content"], validate=True)
            except binascii.Error:
                raise Refused(400, f"{value['path']}: the content is no base64") from None
            files[value["path"]] = repo.store.small(call.hub.mangle(value["path"], data))
        elif key == "lfsFile":
            held = call.hub.store.large.get(value["oid"])
            if held is None or len(held) != value["size"]:
                raise Refused(422, f"{value['path']}: its LFS object has not been sent")
            files[value["path"]] = repo.store.linked(value["oid"], value["size"])
        elif key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            start = value["path"].rstrip("/") + "/"
            files = {path: entry for path, entry in files.items() if not path.startswith(start)}
        elif key != "header":
            raise Refused(400, f"unknown operation {key}")
    return files
