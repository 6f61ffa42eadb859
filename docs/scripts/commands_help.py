"""The help texts of `contramask`'s sub-commands, as the reference shows them."""

import contextlib
import io
import os


def help_text(command: str) -> str:
    """What `contramask <command> --help` prints, 88 columns wide."""
    from contramask.cli import main

    os.environ["COLUMNS"], out = "88", io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    return out.getvalue().strip()
