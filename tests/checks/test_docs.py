"""CHECKS.md says of every check what the check says of itself."""

import re

from adaptertools.checks import LINK, catalogue
from tests.checks import make_docs


def test_it_is_up_to_date() -> None:
    assert make_docs.FILE.read_text("utf-8") == make_docs.document(), (
        "run `python -m tests.checks.make_docs`"
    )


def test_every_link_of_a_check_leads_to_a_heading() -> None:
    headings = re.findall(r"^### (\w+)$", make_docs.FILE.read_text("utf-8"), re.MULTILINE)
    assert headings, "there is no check"
    assert [LINK + code.lower() for code in sorted(headings)] == [
        check.link for check in catalogue().values()
    ]


def test_every_family_has_a_title() -> None:
    assert {code[:3] for code in catalogue()} <= make_docs.FAMILIES.keys()


def test_titles_are_of_one_style() -> None:
    """Each says what is so where nothing is found, and reads on after its code."""
    for check in catalogue().values():
        first = check.title.partition(" ")[0]
        assert not check.title.endswith("."), check.code
        assert first[0].islower() or first in ("PEFT", "DoRA,"), check.code
