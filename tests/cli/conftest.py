"""A base and an adapter that fit, for every test of the command line."""

from pathlib import Path

import pytest

from tests import handmade


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """Make a base and an adapter that fit."""
    handmade.base(tmp_path / "base")
    handmade.adapter(tmp_path / "adapter")
    return tmp_path
