"""What a reader says about files it would know how to read."""

from dataclasses import dataclass, field

#: Endings of files that are taken for images.
EXTENSIONS = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".npy"),
    )
)


@dataclass(frozen=True)
class Layout:
    """A recognised layout: the `source` that reads it, why, and further keys of `dataset`."""

    source: str
    why: str
    keys: dict[str, str] = field(default_factory=dict)
