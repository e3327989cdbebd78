"""README's table of formats, from what each file says: `python -m tests.formats.make_table`."""

from pathlib import Path

from adaptertools.verbs.ls import ls

FILE = Path(__file__).parents[2] / "README.md"
START, END = "<!-- formats: python -m tests.formats.make_table -->\n", "<!-- /formats -->\n"
_HEAD = "| format | what it is | reads | writes | cannot hold | proved with |\n"


def table() -> str:
    """Give the table, a format on a line."""
    rows = [
        "| " + " | ".join([
            f"`{entry['name']}`", entry["title"], "yes" if entry["reads"] else "",
            "yes" if entry["writes"] else "", entry["lacks"], entry["proved"],
        ]) + " |\n"
        for entry in ls("formats").entries
    ]  # fmt: skip
    return _HEAD + "| --- | --- | --- | --- | --- | --- |\n" + "".join(rows)


def written(text: str) -> str:
    """Give README with the table between its two marks."""
    before, _, rest = text.partition(START)
    _, mark, after = rest.partition(END)
    assert mark, "README has lost the marks of the table"
    return before + START + table() + END + after


if __name__ == "__main__":
    FILE.write_text(written(FILE.read_text("utf-8")), "utf-8")
