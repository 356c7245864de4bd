# SPDX-License-Identifier: Apache-2.0
"""How the site is built: ``make docs``. Nothing on a page is loaded from another host."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]
# Notebooks run in processes of their own and import the package of this checkout.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")])
)

import torch  # noqa: E402, F401  (before the package, which then loads all of itself)

from bido_ext import __version__  # noqa: E402

project = "bido_ext"
author = "The bido_ext authors"
copyright = "The bido_ext authors, Apache-2.0"
version = release = __version__

extensions = [
    "mathml",
    "myst_nb",
    "plain_docstrings",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_extensions", "examples", "pictures"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# A notebook is stored without outputs; the site shows those of its own build.
nb_execution_mode = "cache"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
pygments_dark_style = "one-dark"
html_title = f"bido_ext {__version__}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
    "dark_css_variables": {"color-brand-primary": "#7ab8f5", "color-brand-content": "#7ab8f5"},
}

#: Pages that are in the navigation where they exist.
OPTIONAL_PAGES = {"defences": "Defences"}


def _only_pages_that_exist(app: Any, name: str, source: list[str]) -> None:
    if name == "index":
        for page, title in OPTIONAL_PAGES.items():
            if not (HERE / f"{page}.md").exists():
                source[0] = source[0].replace(f"\n{title} <{page}>\n", "\n")


def setup(app: Any) -> None:
    app.connect("source-read", _only_pages_that_exist)
