"""`contramask export`: an encoder in another tool's format, checked by loading it back."""

import argparse
from pathlib import Path
from typing import Any

import rich

_ABOUT = """\
Write an encoder for another tool, load the file back with that tool and compare the features. A
manifest beside the file says what it is: method, configuration hash, branch, sizes, normalisation,
licence note, and the lines that load it."""
_OUT = "a file (.safetensors, .onnx), or a folder; transformers: a folder"


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = commands.add_parser(
        "export", help="an encoder for timm, transformers or ONNX", description=_ABOUT
    )
    parser.add_argument("encoder", type=Path, metavar="ENCODER", help="folder of an encoder")
    parser.add_argument(
        "--to", required=True, choices=("timm", "safetensors", "onnx", "transformers")
    )
    parser.add_argument("out", type=Path, metavar="OUT", help=_OUT)
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from contramask.interop.export import export_encoder
    from contramask.models.bundle import EncoderBundle

    written = export_encoder(EncoderBundle.read(options.encoder), options.to, options.out)
    check = (
        f"loaded back and compared: features differ by at most {written.difference:.1e} "
        f"(they go up to {written.largest:.1f})"
    )
    lines = [str(written.file), check, f"manifest: {written.manifest}", "", *written.usage]
    rich.get_console().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    return 0
