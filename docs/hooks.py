"""Complete the pages while the site is built: tables, mathematics, and a check that nothing loads from elsewhere."""

import html
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs does not look for modules beside a hook
import doc_tables

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_ELSEWHERE = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>"
    r"|<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?(?:https?:)?//[^>]*>"
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put each table in the place of its marker."""
    return doc_tables.insert(markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Turn LaTeX into MathML, which browsers show without a script."""

    def formula(found: re.Match[str]) -> str:
        latex = html.unescape(found[3]).strip()
        if found[2] == "(":
            return convert(latex)
        return f'<div class="formula">{convert(latex, display="block")}</div>'

    return _FORMULA.sub(formula, content)


def on_post_page(output: str, page: Any, **_: Any) -> None:
    """Refuse a page that loads something from elsewhere: the site is read without a network.

    Raises:
        PluginError: If it does.
    """
    if found := _ELSEWHERE.search(output):
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {found[0]}")
