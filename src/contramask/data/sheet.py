"""A contact sheet: a grid of pictures to look at before anything is trained."""

import cv2
import numpy as np

_CELLS = 64
_CELL_PX = 96  # smallest side of a cell on the sheet
_LARGEST_PX = 128
_GAP_PX = 4


def contact_sheet(images: np.ndarray, seed: int) -> np.ndarray:
    """Up to 64 of the images (N, H, W, C) drawn by seed, as one uint8 picture (rows, cols, 3).

    Of many channels the first three are shown.
    """
    count = min(_CELLS, len(images))
    # Drawn, not every n-th: class-interleaved images in equal steps would show one class.
    rows = np.sort(np.random.default_rng(seed).permutation(len(images))[:count])
    cells = [_cell(np.asarray(images[row])) for row in rows]
    height, width = cells[0].shape[:2]
    across = int(np.ceil(np.sqrt(count)))
    down = -(-count // across)
    sheet = np.full(
        (down * (height + _GAP_PX) + _GAP_PX, across * (width + _GAP_PX) + _GAP_PX, 3),
        255,
        np.uint8,
    )
    for place, cell in enumerate(cells):
        top = _GAP_PX + place // across * (height + _GAP_PX)
        left = _GAP_PX + place % across * (width + _GAP_PX)
        sheet[top : top + height, left : left + width] = cell
    return sheet


def _cell(image: np.ndarray) -> np.ndarray:
    height, width, channels = image.shape
    image = np.ascontiguousarray(image[..., :3] if channels >= 3 else image[..., [0, 0, 0]])
    if max(height, width) > _LARGEST_PX:
        scale = _LARGEST_PX / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    times = max(1, _CELL_PX // max(height, width))  # whole times: pixels stay square and honest
    return np.repeat(np.repeat(image, times, axis=0), times, axis=1)
