"""Say how Sphinx builds these pages."""

from importlib.metadata import version as version_of

project = "mpsr"
author = "The mpsr authors"
copyright = "2026, the mpsr authors"
version = release = version_of("mpsr")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
html_theme = "furo"
