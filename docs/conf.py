"""How the documentation is built: `make docs`."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import flask_fsm  # noqa: E402

project = "flask_fsm"
author = "the flask_fsm authors"
copyright = "2026, the flask_fsm authors"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # what an "Attributes" section lists may have a docstring of its own
exclude_patterns = ["_build"]
# In the docstrings, `a name` is code.
default_role = "code"
highlight_language = "python"

html_theme = "furo"
html_title = f"flask_fsm {release}"
html_show_sphinx = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"


def find_type(app, env, node, contnode):
    """Link a type in a signature to its public name; leave those of other packages as text."""
    if node.get("reftype") not in ("class", "data", "exc", "obj"):
        return None
    name = node["reftarget"].rpartition(".")[2]
    if name not in flask_fsm.__all__:
        return contnode
    domain = env.get_domain("py")
    target = f"flask_fsm.{name}"
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)


def setup(app):
    app.connect("missing-reference", find_type)
