"""[tool.adaptertools] in pyproject.toml: the nearest counts, and nothing in it is passed over."""

from pathlib import Path

import click
import pytest

from adaptertools.cli._settings import Settings, read

FULL = """
[tool.adaptertools]
select = ["WGT", "SEC"]
ignore = ["SEC003"]
severity = {WGT014 = "error"}
target = "vllm"
strict = true
fail-on = "warning"
"""


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text, "utf-8")
    return folder / "pyproject.toml"


def test_everything_that_can_be_set(tmp_path: Path) -> None:
    file = write(tmp_path, FULL)
    settings = read(tmp_path)
    assert settings == Settings(
        file=file, select=("WGT", "SEC"), ignore=("SEC003",), severity={"WGT014": "error"},
        target="vllm", strict=True, fail_on="warning",
    )  # fmt: skip
    assert str(settings) == (
        "select WGT, SEC; ignore SEC003; severity WGT014=error; target vllm; strict on; "
        "fail-on warning"
    )


def test_the_nearest_with_our_table_counts(tmp_path: Path) -> None:
    write(tmp_path, FULL)
    write(tmp_path / "a", "[project]\nname = 'x'\n")
    write(tmp_path / "b", "[tool.adaptertools]\n")
    assert read(tmp_path / "a" / "deep" / "er").file == tmp_path / "pyproject.toml"
    assert read(tmp_path / "b") == Settings(file=tmp_path / "b" / "pyproject.toml")


def test_nothing_above_a_checkout_counts(tmp_path: Path) -> None:
    write(tmp_path, FULL)
    (tmp_path / "checkout" / ".git").mkdir(parents=True)
    (tmp_path / "checkout" / "a").mkdir()
    assert read(tmp_path / "checkout" / "a") == Settings()


REFUSED = {
    "no TOML": ("[tool", "cannot be read"),
    "a list of tables": ("[[tool.adaptertools]]", "should be a table"),
    "unknown": ("[tool.adaptertools]\nignored = []", "Did you mean ignore?"),
    "nowhere near": ("[tool.adaptertools]\nxyz = 1", "Known: select, ignore, severity"),
    "underscore": ("[tool.adaptertools]\nfail_on = 'error'", "Did you mean fail-on?"),
    "a word for a list": ("[tool.adaptertools]\nselect = 'SEC'", "expected a list of codes"),
    "numbers": ("[tool.adaptertools]\nignore = [1]", "expected a list of codes"),
    "no level": ("[tool.adaptertools]\nseverity = {WGT014 = 'bad'}", "error, warning, note"),
    "a list of levels": ("[tool.adaptertools]\nseverity = ['error']", "expected a table"),
    "target": ("[tool.adaptertools]\ntarget = 1", "expected a name"),
    "strict": ("[tool.adaptertools]\nstrict = 'yes'", "expected true or false"),
    "fail-on": ("[tool.adaptertools]\nfail-on = 'all'", "one of error, warning, note, never"),
    "control characters": ("[tool.adaptertools]\n'\\u001b[2J' = 1".replace("'", '"'), r"\x1b[2J"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    text, words = REFUSED[case]
    write(tmp_path, text)
    with pytest.raises(click.ClickException) as caught:
        read(tmp_path)
    assert words in caught.value.message
    assert "pyproject.toml" in caught.value.message
    assert caught.value.message.isprintable()


def test_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"# \xff\n[tool.adaptertools]\n")
    with pytest.raises(click.ClickException, match="cannot be read"):
        read(tmp_path)
