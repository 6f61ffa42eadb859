"""`contramask import-weights`: official checkpoints as an encoder for our transfer stages."""

import argparse
from pathlib import Path
from typing import Any

import rich

_ABOUT = """\
Turn a weight file (PyTorch or safetensors; official MAE, CMAE and ConMIM checkpoints, timm and
transformers Vision Transformers and BEiT) into an encoder folder, which `contramask embed`,
`contramask export` and every transfer stage accept. Sizes are read from the weights; the number of
heads, statistics and origin from what the file says about itself: the manifest in our own exports,
or transformers' config.json beside it. A weight that is unknown or missing is an error; decoders,
heads and projectors are left out and counted."""
_HEADS = """\
default: what the file says, else what the published ViT of that width and depth has (vit_huge: 16),
else one for each 64 of the width, with a warning"""
_STATISTICS = "of inputs (default: what the file says, else ImageNet's)"


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = commands.add_parser(
        "import-weights", help="others' weights as an encoder", description=_ABOUT
    )
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="weights, or the folder that transformers wrote"
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="new folder; its name becomes the experiment's"
    )
    kinds = ("auto", "mae", "cmae", "conmim", "timm", "transformers")
    parser.add_argument(
        "--kind", choices=kinds, default="auto", help="whose names the weights have"
    )
    parser.add_argument("--num-heads", type=int, help=_HEADS)
    parser.add_argument(
        "--image-size", type=int, nargs="+", metavar="PX", help="side, or rows and columns"
    )
    parser.add_argument("--branch", choices=("online", "target"), help="of two networks")
    parser.add_argument(
        "--method",
        help="name in tables of results, of a-z, 0-9 and _ (default: what the file says, else the "
        "kind)",
    )
    parser.add_argument(
        "--data", help="what it was trained on (default: what the file says, else unknown)"
    )
    parser.add_argument("--mean", type=float, nargs="+", help=_STATISTICS)
    parser.add_argument("--std", type=float, nargs="+", help=_STATISTICS)
    parser.set_defaults(run=_import)


def _import(options: argparse.Namespace) -> int:
    from contramask.interop.import_weights import ImportOptions, import_weights

    if options.image_size and len(options.image_size) > 2:
        raise ValueError("--image-size takes one side, or rows and columns")
    wanted = ImportOptions(
        kind=None if options.kind == "auto" else options.kind,
        num_heads=options.num_heads,
        image_size=tuple(options.image_size) if options.image_size else None,
        branch=options.branch,
        method=options.method,
        data=options.data,
        mean=tuple(options.mean) if options.mean else None,
        std=tuple(options.std) if options.std else None,
    )
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ValueError(f"{options.out} exists already; give a new folder, or remove it first")
    bundle = import_weights(options.file, options.out.resolve().name, wanted)
    bundle.write(options.out)
    rich.get_console().print(
        "\n".join(_lines(options.out, bundle.manifest)),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _lines(out: Path, manifest: dict[str, Any]) -> list[str]:
    arch, origin = manifest["arch"], manifest["imported"]
    left_out = ", ".join(f"{name} ({count})" for name, count in origin["left_out"].items())
    return [
        f"{out}: {origin['kind']} names, {arch['kind']}, method {manifest['method']}, branch "
        f"{manifest['branch']}",
        f"width {arch['embed_dim']}, depth {arch['depth']}, {arch['num_heads']} heads, patches of "
        f"{arch['patch_size']} px, images of {arch['image_size'][0]}x{arch['image_size'][1]} px",
        f"number of heads: {origin['num_heads']}",
        f"input: (x / 255 - {manifest['mean']}) / {manifest['std']} ({origin['statistics']})",
        f"left out: {left_out or 'nothing'}",
    ]
