"""Say how Sphinx builds these pages."""

import re
import sys
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))  # what is documented is this tree, whatever is installed

project = "mpsr"
author = "The mpsr authors"
copyright = "2026, the mpsr authors"
version = release = version_of("mpsr")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autoclass_content = "both"  # the arguments stand in the docstring of __init__
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # BUFFER says more than 33554432
autodoc_typehints_format = "short"
maximum_signature_line_length = 60
napoleon_use_ivar = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True

highlight_language = "text"  # of blocks that do not say what they are

html_theme = "furo"
html_title = "mpsr"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["mpsr.css"]
html_theme_options = {"footer_icons": []}

copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

linkcheck_anchors = False  # pages that are made by scripts have none until they run

# A page of the API is left out while what it describes is not part of this version.
exclude_patterns = [
    f"reference/api/{page.stem}.md"
    for page in (ROOT / "docs/reference/api").glob("*.md")
    for module in re.findall(r"^\.\. automodule:: (\S+)", page.read_text(), re.MULTILINE)
    if find_spec(module) is None
]

LIMIT = re.compile(r"^(\w+): Final = (.+?)  # (.+)$", re.MULTILINE)
SECTION = re.compile(r"^# -- (.+?) -+$", re.MULTILINE)


def readable(value: str) -> str:
    """Return the source of a number as people write it."""
    value = re.sub(r" \* ([KMG])IB", "\u00a0\\1iB", value.replace("_", ","))
    return value.replace("*", "\u00d7")


class Limits(SphinxDirective):
    """A table of all limits: each with its value, and its unit and reason, from the source."""

    def run(self) -> list[nodes.Node]:
        """Return a title and a table for each section of the source."""
        path = ROOT / "src/mpsr/limits.py"
        self.env.note_dependency(str(path))
        _, *parts = SECTION.split(path.read_text())
        text = ""
        for title, body in zip(parts[::2], parts[1::2], strict=True):
            rows = [
                f"| `{name}` | {readable(value)} | {why} |"
                for name, value, why in LIMIT.findall(body)
            ]
            head = ["| limit | value | unit, and reason |", "|---|---|---|"]
            text += "\n".join([f"**{title.capitalize()}**", "", *head, *rows, "", ""])
        return self.parse_text_to_nodes(text)


def leave_fields_out(_app: Sphinx, _what: str, _name: str, obj: Any, skip: bool, _: Any) -> bool:  # noqa: ANN401, FBT001 - Sphinx calls it
    """Leave the fields of a named tuple to the docstring of its class, which describes each."""
    return skip or type(obj).__name__ == "_tuplegetter"


def setup(app: Sphinx) -> None:
    """Add what these pages have of their own."""
    app.add_directive("limits", Limits)
    app.connect("autodoc-skip-member", leave_fields_out)
