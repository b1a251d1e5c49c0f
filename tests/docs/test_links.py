"""Links lead to a file and a heading: those of the README and of the pages at the top level.

``make docs`` checks those between all pages of the site, ``make linkcheck`` those to other sites.
"""

from __future__ import annotations

import re
from typing import Final

import pytest

from tests.docs.pages import ROOT

PAGES: Final = (
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{each.name}" for each in (ROOT / "docs").glob("*.md")),
)
LINK: Final = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(#[^)\s]+)?\)")


def anchors(text: str) -> set[str]:
    """Return the anchors that headings have, as GitHub and the site make them, and labels."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)
    return {*words, *re.findall(r"^\((.+)\)=$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_to_a_file_and_a_heading(page: str) -> None:
    path = ROOT / page
    for file, anchor in LINK.findall(path.read_text(encoding="utf-8")):
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{file}: no such file"
        if anchor:
            assert anchor[1:] in anchors(target.read_text(encoding="utf-8")), f"{file}{anchor}"


def test_readme_shows_where_the_documentation_begins() -> None:
    """A newcomer finds the tutorial, which is among the first things of the site."""
    assert "docs/tutorial.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](tutorial.md)" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
