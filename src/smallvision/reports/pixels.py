"""Arrays as pictures within a page."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]
GAP = 1  # pixels between the pictures of a sheet


def png(picture: Array) -> str:
    """A data: address of uint8, H x W x C, of 1 channel (grey), 3 (RGB) or 4 (RGBA); of others the first."""
    channels = picture.shape[2]
    plain = picture if channels in (3, 4) else picture[:, :, 0]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(plain)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def filter_sheet(filters: Array, columns: int = 16) -> Array:
    """Filters (floats, N x C x H x W) side by side, each scaled by itself, 0 as middle grey: RGBA."""
    count, channels, height, width = filters.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 4), np.uint8)
    for number, one in enumerate(filters):
        largest = float(np.abs(one).max()) or 1.0
        levels = np.round(127.5 + 127.5 * one / largest).astype(np.uint8).transpose(1, 2, 0)
        top, left = number // columns * (height + GAP), number % columns * (width + GAP)
        sheet[top : top + height, left : left + width, :3] = levels if channels == 3 else levels[:, :, :1]
        sheet[top : top + height, left : left + width, 3] = 255
    return sheet
