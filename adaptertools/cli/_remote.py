"""What is said of a repository that was looked at."""

from __future__ import annotations

from collections.abc import Iterator

from adaptertools.errors import first, shown
from adaptertools.facts import Remote

_COMMIT = 12  # letters of a commit that people read


def repository(remote: Remote | None) -> Iterator[str]:
    """Give a line on where it lies and who may see it, and one on its hub's scan."""
    if remote is None:
        return
    if "://" in remote.id:
        yield f"  store     {shown(remote.id)}"
        return
    seen = ["private" if remote.private else "public", *["gated"] * remote.gated]
    commit = shown(remote.commit)[:_COMMIT]
    yield f"  hub       {', '.join([f'{shown(remote.id)} at {commit}', *seen])}"
    if flagged := remote.flagged:
        each = (f"{name} is {said}" for name, said in flagged.items())
        yield f"  UNSAFE    says the hub's scan: {first(each)}"
    elif "queued" in remote.scan.values():
        yield "  scan      not done yet"
    elif remote.scan:
        yield "  scan      no complaint"
