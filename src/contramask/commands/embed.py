"""`contramask embed`: features of images, as a Parquet table."""

import argparse
from pathlib import Path
from typing import Any

import rich

_ABOUT = """\
Embed images with a frozen encoder. OUT.parquet gets the columns path, cls and mean: the class token
and the mean patch token after the final norm, fixed-size lists of float32. Size and normalisation
come from the encoder's manifest. Unreadable images are listed and left out."""


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = commands.add_parser("embed", help="features of images, as Parquet", description=_ABOUT)
    parser.add_argument("encoder", type=Path, metavar="ENCODER", help="folder of an encoder")
    parser.add_argument(
        "images", type=Path, metavar="IMAGES", help="folder, one image, or text file of paths"
    )
    parser.add_argument("out", type=Path, metavar="OUT.parquet")
    parser.add_argument("--batch-size", type=int, default=64, help="default 64")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument(
        "--max-problem-share",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="stop when more than 20 images and this share cannot be read (default 0.05)",
    )
    parser.set_defaults(run=_embed)


def _embed(options: argparse.Namespace) -> int:
    from contramask.data.image_files import ImageFiles, find_image_files
    from contramask.models.bundle import EncoderBundle
    from contramask.train.device import LaunchConfig, pick_machine
    from contramask.transfer.embedding import embed_images

    if options.out.suffix != ".parquet":
        raise ValueError(f"the table is written as Parquet; call it {options.out.stem}.parquet")
    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {options.batch_size}")
    bundle = EncoderBundle.read(options.encoder)
    paths = find_image_files(options.images)
    files = ImageFiles(
        paths, max(bundle.encoder.image_size), options.max_problem_share, bundle.encoder.in_chans
    )
    machine = pick_machine(LaunchConfig(device=options.device, precision=options.precision))
    found = embed_images(bundle, files, machine, options.batch_size)
    found.write(options.out)
    skipped = found.manifest["skipped"]
    lines = [f"skipped: {image['path']} {image['problem']}" for image in skipped]
    columns = ", ".join(found.table.column_names)
    lines.append(
        f"{options.out}: {found.table.num_rows} images, {len(skipped)} skipped, columns {columns}"
    )
    rich.get_console().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    return 0
