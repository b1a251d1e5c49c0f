"""Find the pages that people read, and the blocks of code in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
RUN: Final = ("python", "console")  # the languages of what a test runs
MARKS: Final = ("beside", "takes over", "file", "needs", "not run", "tested by")

# Comments may stand before a block, each of one mark; they are followed by the block itself.
_BLOCK: Final = re.compile(
    r"(?P<comments>(?:^<!--(?:(?!-->).)*-->\n+)*)"
    r"^(?P<fence>`{3,}) ?(?P<language>[\w{}-]*)[^\n]*\n(?P<code>.*?)^(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)
_COMMENT: Final = re.compile(rf"<!-- ({'|'.join(MARKS)}): (.+?) -->", re.DOTALL)
_WHOLE_PAGE: Final = re.compile(r"\A<!-- (tested by|needs): (.+?) -->$", re.MULTILINE)


class Block(NamedTuple):
    """A block of code, and what the comments before it say of it, by mark."""

    language: str
    code: str
    marks: dict[str, str]
    line: int


class Page(NamedTuple):
    """A page, by its path in the repository."""

    name: str
    text: str

    @property
    def blocks(self) -> list[Block]:
        """The blocks that a test is to run, or to write to a file, in order."""
        found = []
        for block in _BLOCK.finditer(self.text):
            marks = dict(_COMMENT.findall(block["comments"]))
            if block["language"] in RUN or "file" in marks:
                line = self.text.count("\n", 0, block.start("fence")) + 1
                found.append(Block(block["language"], block["code"], marks, line))
        return found

    @property
    def marks(self) -> dict[str, str]:
        """What a comment in the first line says of the whole page."""
        return dict(_WHOLE_PAGE.findall(self.text))

    @property
    def needs(self) -> set[str]:
        """The programs without which it cannot be run."""
        told = [self.marks, *(block.marks for block in self.blocks)]
        return {each for marks in told for each in marks.get("needs", "").split(", ") if each}


def pages() -> list[Page]:
    """Return the README and all pages of the documentation."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [Page(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) for path in paths]
