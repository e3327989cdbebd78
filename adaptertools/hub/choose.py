"""Which files of a repository are fetched, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adaptertools.errors import NotFound, Unsafe, first, shown
from adaptertools.hub.kinds import (
    CONFIG,
    instead,
    is_weights,
    matches,
    not_of_adapter,
    not_of_model,
)  # fmt: skip
from adaptertools.hub.names import hostile, nearest
from adaptertools.hub.repo import FINE, RemoteFile, Repo
from adaptertools.ref import Ref


def choose(
    repo: Repo, ref: Ref, kind: str, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[dict[str, RemoteFile], dict[str, str]]:
    """Give the files that are wanted, and why each other one is not, by their names in `ref`.

    `include` takes the place of the list for `kind`, and `exclude` takes away from it; both match
    as they do for `hf download`. What lies outside the reference's subfolder is no part of it.

    Raises NotFound where there is nothing to fetch, or no adapter and one was asked for.
    """
    inside = _inside(repo, ref)
    bad = hostile(inside)
    sound = {name: file for name, file in inside.items() if name not in bad}
    left = {name: f"its name {why}" for name, why in bad.items()}
    if include:
        wanted = {name for name in sound if matches(name, include)}
        left |= {name: "not included" for name in sound if name not in wanted}
    else:
        adapter = kind == "adapter" or ("adapter" in kind and CONFIG in sound)
        rest = not_of_adapter(sound) if adapter else not_of_model(sound)
        rest |= {n: why for n, f in sound.items() if n not in rest and (why := _flagged(f))}
        wanted = sound.keys() - rest.keys()
        left |= rest
        if adapter and not exclude:
            _check_adapter(sound, wanted, left, ref)
    taken_out = {name for name in wanted if exclude and matches(name, exclude)}
    left |= dict.fromkeys(taken_out, "excluded")
    chosen = {name: sound[name] for name in sorted(wanted - taken_out)}
    if not chosen:
        raise NotFound(
            f"{_place(ref)}: nothing to fetch is left. It has {first(inside) or 'no files'}."
        )
    return chosen, dict(sorted(left.items()))


def _inside(repo: Repo, ref: Ref) -> dict[str, RemoteFile]:
    """Give the files below the reference's subfolder, by their names in it."""
    if not ref.subfolder:
        return dict(repo.files)
    prefix = ref.subfolder.rstrip("/") + "/"
    found = {n.removeprefix(prefix): f for n, f in repo.files.items() if n.startswith(prefix)}
    if found:
        return found
    folders = sorted({n.rpartition("/")[0] for n in repo.files if "/" in n})
    known = nearest(ref.subfolder, folders) or folders
    has = f"It has {first(known)}." if known else "It has no folders."
    raise NotFound(f"{shown(repo.id)} has no folder {shown(ref.subfolder)}. {has}")


def _flagged(file: RemoteFile) -> str:
    return "" if file.status in FINE else f"the Hub's scan calls it {shown(file.status)}"


def _check_adapter(
    files: Mapping[str, RemoteFile], wanted: set[str], left: Mapping[str, str], ref: Ref
) -> None:
    """Refuse a place without an adapter, saying what it is; weights alone may be another format."""
    weights = [name for name in wanted if is_weights(name, pickled=True)]
    flagged = [
        name for name, why in left.items() if "scan" in why and is_weights(name, pickled=True)
    ]
    if flagged and not weights:
        raise Unsafe(
            f"{_place(ref)}: {left[flagged[0]]}: {first(flagged)}, which is all its weights. "
            "Do not load it; --include fetches it all the same."
        )
    if CONFIG in files or weights:
        return
    homes = sorted(n.removesuffix(f"/{CONFIG}") for n in files if n.endswith(f"/{CONFIG}"))
    if homes:
        many = f"{len(homes)} adapters in folders of their own"
        raise NotFound(
            f"{_place(ref)} holds {many if len(homes) > 1 else 'an adapter in a folder of its own'}"
            f": {first(homes)}. "
            f"Give {_below_ref(ref, homes[0])}."
        )
    raise NotFound(
        f"{_place(ref)} holds no adapter, {instead(files)}. An adapter has {CONFIG}. "
        "--include fetches what is there."
    )


def _place(ref: Ref) -> str:
    return shown(ref.text)


def _below_ref(ref: Ref, home: str) -> str:
    revision = f"@{ref.revision}".replace("/", "%2F") if ref.revision else ""
    inner = f"{ref.subfolder}/{home}" if ref.subfolder else home
    return shown(f"{ref.repo or ref.url}{revision}/{inner}")
