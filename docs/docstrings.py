"""Turn the reStructuredText in docstrings into the Markdown that mkdocstrings expects."""

import re
from typing import Any

import griffe

_CODE_ROLE = re.compile(r":(?:class|func|meth|attr|mod|data|obj):`(~?)([\w.]+)`")
_MATH_ROLE = re.compile(r":math:`([^`]+)`")
_MATH_BLOCK = re.compile(r"^\.\. math:: (.+(?:\n +\S.*)*)$", re.MULTILINE)
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)  # else a note, whose doctest is shown as a quotation


def to_markdown(text: str) -> str:
    """Return a docstring with roles as links, mathematics between dollar signs, and doctests as code."""
    text = _EXAMPLE.sub("Examples:", text)
    text = _MATH_BLOCK.sub(lambda found: f"$$\n{found[1]}\n$$", text)
    text = _MATH_ROLE.sub(lambda found: f"${found[1]}$", text)
    return _CODE_ROLE.sub(_link, text)


def _link(role: re.Match[str]) -> str:
    short, name = role.groups()
    shown = name.rpartition(".")[2] if short or name.startswith("lightning_unlearn.") else name
    if "." not in name:
        return f"`{shown}`"
    return f'<autoref optional identifier="{name}"><code>{shown}</code></autoref>'


class Roles(griffe.Extension):
    """Rewrites each docstring of the package before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
