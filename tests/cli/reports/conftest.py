"""The catalogue of these tests, in place of the real one."""

import pytest

from adaptertools.cli import reports
from tests.cli.reports import CATALOGUE


@pytest.fixture(autouse=True)
def _catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "catalogue", lambda: CATALOGUE)
