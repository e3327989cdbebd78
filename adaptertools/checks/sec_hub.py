"""What the hub that an adapter lies on says of its files."""

from __future__ import annotations

from collections.abc import Mapping

from adaptertools.checks import check
from adaptertools.errors import shown
from adaptertools.facts import Found, Result


@check("SEC013", "the hub's own scan has no complaint", fix="Do not load it; ask its author.")
def scanned(scan: Mapping[str, str]) -> Result:
    """The Hub scans every file for malware, for secrets, and pickles for what they would run.

    What it takes for unsafe is an error here, other doubts are a warning. A scan that is not done
    yet says nothing. What the Hub passes is still looked at by the other checks.
    """
    for name, said in scan.items():
        level = "error" if said in ("unsafe", "infected") else "warning"
        yield Found(text=f"the hub calls {shown(name)} {shown(said)}", file=name, level=level)
