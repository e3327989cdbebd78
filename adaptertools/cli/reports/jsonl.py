"""JSON lines: an adapter per line, as soon as it is done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from adaptertools.cli.reports import Page
from adaptertools.cli.reports.json import FORMAT, adapter
from adaptertools.report import Report


def render(reports: Iterable[Report], page: Page) -> Iterator[str]:
    """Give a line per adapter: what `adapters` holds in the JSON, and the number of the format."""
    for report in reports:
        yield json.dumps({"format": FORMAT, **adapter(report, page)}) + "\n"
