"""Tests in this folder ask servers on this machine, also where HF_HUB_OFFLINE keeps all others."""

import pytest


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
