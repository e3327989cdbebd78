"""How a model's repository stands: there, gone, gated, renamed."""

from __future__ import annotations

from adaptertools.errors import AdapterToolsError, HubError, NotFound, shown
from adaptertools.hub import client
from adaptertools.hub.faults import gated


def standing(repo: str) -> str:
    """Ask the Hub about a model's repository: "ok", "missing", "gated" or "moved: its name now".

    Raises HubError where the Hub cannot be reached.
    """
    try:
        found = client.attempt(
            lambda: client.api().model_info(repo, timeout=client.TIMEOUT), repo, tries=2
        )
    except NotFound:
        return "missing"
    except AdapterToolsError as error:
        if gated(error.__cause__):
            return "gated"
        raise HubError(
            f"The Hub could not be asked about {shown(repo)}: {error} Leave --online out, or look "
            "at the network."
        ) from error.__cause__
    if found.gated:
        return "gated"
    return "ok" if found.id.lower() == repo.lower() else f"moved: {found.id}"
