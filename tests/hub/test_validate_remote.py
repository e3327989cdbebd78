"""validate of a repository: what it finds is what it finds in the files, and what was not read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import adaptertools as at
from tests.hub import opt_lora
from tests.hub.test_inspect_remote import MOST_BYTES, MOST_REQUESTS, cost, write
from tests.hub_server import Hub

UNREAD = "notes.json, optimizer.pt, tokenizer_config.json not fetched (pass --deep)"
HERE = ("FIL002", "SEC001", "SEC002", "SEC007", "SEC009", "SEC010")  # look into every file


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as made:
        yield made
        assert made.leaks == []


def reported(run: Any) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run.stdout)["adapters"][0]
    return report


@pytest.mark.parametrize("kind", ["safetensors", "pickled"])
def test_the_same_is_found(kind: str, hub: Hub, tmp_path: Path) -> None:
    files: dict[str, bytes] = getattr(opt_lora, kind)()
    hub.add(opt_lora.NAME, files)
    hub.requests.clear()
    there = reported(hub.run(tmp_path, "validate", opt_lora.NAME, "--json"))
    asked = [one for one in hub.requests if one.status < 300]
    requests, sent = cost(hub, f"validate, {kind}")
    assert requests <= MOST_REQUESTS + (kind == "pickled")  # which is read at both ends
    assert len(asked) <= 5  # listing, config, card, weights; redirects come on top
    assert sent <= MOST_BYTES
    here = at.validate(write(tmp_path / "local", files))
    found = [(f["code"], f["level"], f["text"]) for f in there["findings"]]
    assert found == [(f.code, f.level, f.text) for f in here.findings]
    assert {"BAS004", "CRD005"} <= {code for code, _, _ in found}
    skipped = {one["code"] for one in there["checks_skipped"]}
    assert skipped == {text.partition(":")[0] for text in here.skipped} - {"SEC013"}


def test_what_was_not_read_is_said(hub: Hub, tmp_path: Path) -> None:
    secret = b'{"note": "hf_' + b"aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA" + b'"}'
    more = {"notes.json": secret, "tokenizer_config.json": b"{}", "optimizer.pt": b"\x80\x02K\x01."}
    hub.add("user/more", {**opt_lora.small(), **more})
    shallow = reported(hub.run(tmp_path, "validate", "user/more", "--json"))
    why = {one["code"]: one["reason"] for one in shallow["checks_skipped"]}
    for code in HERE:
        assert why[code] == UNREAD
    assert why["TOK001"] == "they were not fetched (pass --deep)"
    codes = {f["code"]: f for f in shallow["findings"]}
    assert "SEC010" not in codes
    assert "what it names is unknown" in codes["SEC001"]["text"]
    assert "FIL004" in codes  # by its name


def test_the_scan_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    for word, level in {"unsafe": "error", "suspicious": "warning"}.items():
        name = f"user/{word}"
        hub.add(name, opt_lora.small(), scan={"adapter_model.safetensors": word})
        report = reported(hub.run(tmp_path, "validate", name, "--select", "SEC013", "--json"))
        (finding,) = report["findings"]
        assert (finding["level"], finding["file"]) == (level, "adapter_model.safetensors")
        shown = hub.run(tmp_path, "inspect", name).stdout
        assert f"UNSAFE    says the hub's scan: adapter_model.safetensors is {word}" in shown
    hub.add("user/queued", opt_lora.small(), scan={"adapter_model.safetensors": "queued"})
    report = reported(hub.run(tmp_path, "validate", "user/queued", "--select", "SEC013", "--json"))
    (skipped,) = report["checks_skipped"]
    assert skipped["reason"] == "the hub's scan is not done yet"


def test_a_base_on_the_hub_is_not_fetched(hub: Hub, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save

    names = [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(6)]
    shards = {f"model-{i}-of-6.safetensors": save({name: np.zeros((8, 8), np.float32),
                                                   f"pad.{i}": np.zeros(500_000, np.float32)})
              for i, name in enumerate(names)}  # fmt: skip
    mapped = {name: file for i, file in enumerate(shards) for name in (names[i], f"pad.{i}")}
    index = json.dumps({"metadata": {}, "weight_map": mapped}).encode()
    files = {"config.json": b'{"model_type": "llama"}', "model.safetensors.index.json": index}
    hub.add("user/base", {**files, **shards})
    hub.add("user/on-base", opt_lora.small(layers=6, base_model_name_or_path="user/base"))
    hub.requests.clear()
    run = hub.run(tmp_path, "inspect", "user/on-base", "--base", "user/base")
    assert "changes 6 of the 12 tensors of user/base" in run.stdout, run.stderr
    assert cost(hub, "inspect with a base of 12 MB")[1] < MOST_BYTES
    local = write(tmp_path / "base", {**files, **shards})
    at_hand = hub.run(tmp_path, "inspect", "user/on-base", "--base", str(local))
    assert at_hand.stdout.replace(str(local), "user/base") == run.stdout
    run = hub.run(tmp_path, "validate", "user/on-base", "--base", "user/base", "--json")
    assert "BAS007" in reported(run)["checks_run"]
