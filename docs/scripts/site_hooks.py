"""What MkDocs is told while it builds: equations, tables of settings, commands' help texts.

Three things a page may contain besides Markdown: `$$ ... $$` on lines of their own (LaTeX, which
becomes MathML and needs no script in the browser), `<!-- settings: module:Class [key] -->` and
`<!-- help: sub-command -->`.
"""

import re
from typing import Any

from commands_help import help_text
from settings_tables import settings_tables

_MATH = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.MULTILINE | re.DOTALL)
_SETTINGS = re.compile(r"^<!-- settings: (\S+):(\w+)(?: (\S+))? -->$", re.MULTILINE)
_HELP = re.compile(r"^<!-- help: (.+?) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace what MkDocs does not know by what it does."""
    markdown = _MATH.sub(lambda found: mathml(found[1]), markdown)
    markdown = _SETTINGS.sub(
        lambda found: settings_tables(found[1], found[2], found[3] or ""), markdown
    )
    return _HELP.sub(lambda found: f"```text\n{help_text(found[1])}\n```", markdown)


def mathml(latex: str) -> str:
    """One displayed equation as MathML."""
    from latex2mathml.converter import convert

    return convert(latex, display="block")
