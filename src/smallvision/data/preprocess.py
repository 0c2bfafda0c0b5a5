"""An image of any kind becomes what a network takes: channels x height x width, as its training data had them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from smallvision.core.system import cores
from smallvision.data.image_files import (
    MODES,
    ImageFile,
    UnreadableImage,
    flatten_alpha,
    open_image,
    stretch,
    thumbnail,
)

DIGITS = ("mnist", "digits")
LIGHT_ON_DARK = (*DIGITS, "fashion_mnist")
AUTO_RESIZE = {"folder": "stretch", "fashion_mnist": "trim", **dict.fromkeys(DIGITS, "digit")}  # else center_crop
WORKING_SIDE = 1024  # pixels; larger images are reduced before they are analysed

# Clothes (Fashion-MNIST)
TRIM_CONTRAST = 24  # grey levels; pixels nearer than that to the background's belong to it
TRIM_BELOW = 0.85  # of the image's longer side; larger garments keep their margins

# Digits (MNIST); grey levels are of 255
DIGIT_SIDE = 20 / 28  # the longer side of a digit, relative to the image's
INK = 64.0  # pixels of at least that level are ink
MIN_CONTRAST = 12.0  # an image with less shows nothing
UNEVEN = 0.12  # of the contrast; a border that varies by more is lit unevenly
PALE = 224.0  # ink that stays below is made stronger
NOISE = 1.5  # a background noisier than this is cleaned
SPECK = 0.03  # of the largest stroke's mass; smaller components are dirt
PEN_WIDTH = 1.7 / 28  # relative to the image's side: thinner strokes are thickened, as MNIST's pen was thick
SURFACE_SIDE = 64  # pixels; the background's brightness is fitted on an image no larger

Pixels = npt.NDArray[np.uint8]
Grey = npt.NDArray[np.float32]  # height x width, from 0 to 255


@dataclass(frozen=True)
class InputSpec:
    """What a network takes and how images are brought to it.

    ``dataset``: what it was trained on, as :func:`dataset_kind` names it. ``polarity``: auto, keep or invert.
    ``resize``: auto, stretch, center_crop or pad; auto does what the training data's authors did.
    """

    channels: int
    height: int
    width: int
    dataset: str
    polarity: str = "auto"
    resize: str = "auto"


@dataclass(frozen=True)
class Preprocessed:
    """``pixels``: uint8, channels x height x width; ``polarity``: kept or inverted.

    ``resize``: unchanged, resized, centered (as MNIST's digits are), no ink (nothing to center), stretched,
    cropped or padded.
    """

    pixels: Pixels
    polarity: str
    resize: str


@dataclass(frozen=True)
class LoadedImage:
    """``input``: the image as the network takes it; ``thumbnail``: the original, small, where it was asked for.

    ``error``: why there is neither.
    """

    file: ImageFile
    input: Preprocessed | None = None
    thumbnail: Image.Image | None = None
    error: str | None = None


def load_in_chunks(
    files: Sequence[ImageFile], spec: InputSpec, chunk: int, thumbnails: int
) -> Iterator[list[LoadedImage]]:
    """All files in order, ``chunk`` at a time; at least the first ``thumbnails`` readable ones have thumbnails."""
    with ThreadPoolExecutor(max_workers=cores()) as pool:  # Pillow decodes outside the interpreter's lock
        for start in range(0, len(files), chunk):
            part = files[start : start + chunk]
            loaded = list(pool.map(load_image, part, [spec] * len(part), [thumbnails > 0] * len(part)))
            thumbnails -= sum(image.input is not None for image in loaded)
            yield loaded


def load_image(file: ImageFile, spec: InputSpec, keep_thumbnail: bool) -> LoadedImage:
    if file.error is not None:
        return LoadedImage(file, error=file.error)
    try:
        with open_image(file.content, file.name) as image:
            return LoadedImage(file, preprocess(image, spec), thumbnail(image) if keep_thumbnail else None)
    except UnreadableImage as unreadable:
        return LoadedImage(file, error=unreadable.reason)


def dataset_kind(configured: str, trained_on: str, mean: Sequence[float]) -> str:
    """The key that :class:`InputSpec` takes, for a network with a ``mean`` per channel in [0, 1].

    ``configured``: the name in the config's section ``data``; ``trained_on``: the name of what was trained on,
    which is another where it was a stand-in. A user's folder or file may be called "mnist" and mean nothing by
    it: that name counts only where the images are as dark as MNIST's.
    """
    if configured in ("folder", "shapes"):
        return configured
    light = sum(mean) > 0.5 * len(mean)
    return "other" if trained_on in LIGHT_ON_DARK and light else trained_on


def preprocess(image: Image.Image, spec: InputSpec) -> Preprocessed:
    """``image``: upright and of 8 bits a channel, as :func:`open_image` gives it."""
    size = (spec.width, spec.height)
    # data=folder composites transparency onto white before training.
    image = flatten_alpha(image, "white" if spec.dataset == "folder" else None)
    method = AUTO_RESIZE.get(spec.dataset, "center_crop") if spec.resize == "auto" else spec.resize
    if method == "digit" and image.size != size:
        return _preprocess_digit(image, spec)
    resized = image.convert(MODES[spec.channels])
    if image.size == size:
        done = "unchanged"
    elif method == "stretch":
        resized, done = stretch(image, spec.channels, size), "stretched"
    elif method == "center_crop":
        resized, done = center_crop(_limit_size(resized), size), "cropped"
    else:
        resized, done = pad(_limit_size(resized), size, trim=method == "trim"), "padded"
    inverted = spec.polarity == "invert"
    if spec.polarity == "auto" and spec.dataset in LIGHT_ON_DARK:
        inverted = is_dark_on_light(np.asarray(_limit_size(image.convert("L"))))
    pixels = np.atleast_3d(np.asarray(resized)).transpose(2, 0, 1)
    polarity = "inverted" if inverted else "kept"
    return Preprocessed(np.ascontiguousarray(255 - pixels if inverted else pixels), polarity, done)


def _preprocess_digit(image: Image.Image, spec: InputSpec) -> Preprocessed:
    grey = np.asarray(_limit_size(image.convert("L")), dtype=np.float32)
    ink, inverted = normalise_levels(grey)
    if spec.polarity != "auto" and inverted != (spec.polarity == "invert"):
        inverted = not inverted
        ink = 255 - grey if inverted else grey
    digit, done = fit_digit(ink, spec.height, spec.width)
    return Preprocessed(np.stack([_to_bytes(digit)] * spec.channels), "inverted" if inverted else "kept", done)


def _to_bytes(pixels: Grey) -> Pixels:
    return pixels.round().clip(0, 255).astype(np.uint8)


# Sizes ---------------------------------------------------------------------------------------------------


def center_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest part of the aspect ratio of ``size`` (width, height), from the center."""
    scale = min(image.width / size[0], image.height / size[1])
    width, height = (max(1, round(side * scale)) for side in size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return _resize(image.crop((left, top, left + width, top + height)), size)


def pad(image: Image.Image, size: tuple[int, int], trim: bool) -> Image.Image:
    """The entire image on its background's colour; with ``trim``, first without wide margins of that colour.

    Fashion-MNIST was made like this: H. Xiao et al., arXiv:1708.07747, section 2, trim the photographs, bring
    the longer side to 28 pixels and extend the shorter. Its images have hardly a margin along the longer side.
    """
    pixels = np.asarray(image)
    background = np.median(border(pixels), axis=0)
    if trim:
        contrast = np.atleast_3d(np.abs(pixels - background)).max(2)
        box = _bounding_box(contrast > TRIM_CONTRAST)
        if box is not None and max(box[2] - box[0], box[3] - box[1]) <= TRIM_BELOW * max(image.size):
            image = image.crop(box)
    scale = max(image.width / size[0], image.height / size[1])
    width, height = max(1, round(image.width / scale)), max(1, round(image.height / scale))
    colour = tuple(int(level) for level in np.atleast_1d(background))
    canvas = Image.new(image.mode, size, colour if len(colour) > 1 else colour[0])
    canvas.paste(_resize(image, (width, height)), ((size[0] - width) // 2, (size[1] - height) // 2))
    return canvas


def area_resize(image: Pixels | Grey, height: int, width: int) -> Grey:
    """``image``, H x W or H x W x C, at that size; float32.

    A side that shrinks is averaged over the exact area of each new pixel, fractions of old pixels included
    (Pillow's BOX takes whole pixels only); one that grows is interpolated linearly.
    """
    rows, columns = _resize_weights(image.shape[0], height), _resize_weights(image.shape[1], width)
    down = np.tensordot(rows, image.astype(np.float32), axes=(1, 0))
    return np.moveaxis(np.tensordot(columns, down, axes=(1, 1)), 0, 1)


def _resize_weights(old: int, new: int) -> Grey:
    """new x old; each row sums to 1."""
    edges = np.arange(new + 1) * (old / new)
    if new <= old:
        first, last = edges[:-1, None], edges[1:, None]
        pixels = np.arange(old)
        covered = np.minimum(last, pixels + 1) - np.maximum(first, pixels)
        return (covered.clip(0) * (new / old)).astype(np.float32)
    centers = ((edges[:-1] + edges[1:]) / 2 - 0.5).clip(0, old - 1)
    return (1 - np.abs(centers[:, None] - np.arange(old))).clip(0).astype(np.float32)


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(_to_bytes(area_resize(np.asarray(image), size[1], size[0])))


def _limit_size(image: Image.Image) -> Image.Image:
    return image.reduce(max(1, -(-max(image.size) // WORKING_SIDE)))


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of what is true; None where nothing is."""
    return Image.fromarray(mask).getbbox()


# Levels --------------------------------------------------------------------------------------------------


def border(image: Pixels | Grey) -> Pixels | Grey:
    """The pixels along the four sides, a fiftieth of the shorter side deep: N or N x C."""
    deep = max(1, min(image.shape[:2]) // 50)
    is_border = np.ones(image.shape[:2], bool)
    is_border[deep:-deep, deep:-deep] = False
    return image[is_border]


def is_dark_on_light(grey: Pixels | Grey) -> bool:
    """Whether the background, as the border shows it, is nearer to the lightest level than to the darkest."""
    low, high = float(grey.min()), float(grey.max())
    background = float(np.median(border(grey)))
    return background > (low + high) / 2 or (low == high and low > 127)


def normalise_levels(values: Grey) -> tuple[Grey, bool]:
    """Light ink on a background of 0, and whether it was dark on light.

    The levels of a clean image are kept, or subtracted from 255. Uneven light is fitted by a smooth surface and
    subtracted; a noisy background or pale ink is stretched to 0 and 255.
    """
    contrast = float(np.ptp(values))
    low, high = np.percentile(border(values), (5, 95))
    background = np.full_like(values, np.median(border(values)))
    dark = is_dark_on_light(values)
    if contrast > MIN_CONTRAST and high - low > UNEVEN * contrast:
        background = _fit_background(values)
        difference = values - background
        dark = bool(-difference.min() > difference.max())
    ink = background - values if dark else values - background
    noise = 1.4826 * float(np.median(np.abs(ink)))  # the standard deviation, estimated robustly
    ink = ink.clip(0)
    peak = float(ink.max())
    if peak < MIN_CONTRAST:
        return ink, dark
    peak = float(np.percentile(ink[ink > peak / 2], 90))
    if peak < PALE or noise > NOISE:
        floor = min(4 * noise, 0.3 * peak)
        ink = (ink - floor) * (255 / (peak - floor))
    return ink.clip(0, 255), dark


def _fit_background(values: Grey) -> Grey:
    """The background's brightness everywhere: a polynomial of degree 2, fitted so that ink hardly counts."""
    height, width = values.shape
    small = area_resize(values, min(height, SURFACE_SIDE), min(width, SURFACE_SIDE))
    terms, target = _quadratic_terms(*small.shape).reshape(-1, 6), small.reshape(-1)
    weights: Grey | npt.NDArray[np.float64] = np.ones_like(target)
    for _ in range(20):  # least squares, reweighted by Cauchy's weights: outliers lose theirs
        root = np.sqrt(weights)[:, None]
        solution = np.linalg.lstsq(terms * root, target * root[:, 0], rcond=None)[0]
        residual = np.abs(target - terms @ solution)
        weights = 1 / (1 + (residual / max(1.5 * float(np.median(residual)), 1.0)) ** 2)
    return (_quadratic_terms(height, width) @ solution).astype(np.float32)


def _quadratic_terms(height: int, width: int) -> Grey:
    """1, x, y, x^2, xy, y^2 at each pixel, x and y from -1 to 1: height x width x 6."""
    sides = [(np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1 for side in (height, width)]
    y, x = np.meshgrid(*sides, indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


# Digits --------------------------------------------------------------------------------------------------


def fit_digit(ink: Grey, height: int, width: int) -> tuple[Grey, str]:
    """Light ``ink`` on 0 as MNIST has it, height x width, and what was done to it.

    MNIST's digits are 20 pixels in their longer side and lie with their center of mass in the middle of
    28 x 28 pixels (Y. LeCun et al., Proc. IEEE 86(11), 1998).
    """
    strokes = _remove_specks(ink)
    box = _bounding_box(strokes >= INK)
    if box is None:
        return area_resize(ink, height, width), "no ink"
    left, top, right, bottom = box
    longest = max(bottom - top, right - left)
    side = min(height, width)
    if _lies_as_in_mnist(strokes, longest):
        return area_resize(ink, height, width), "resized"
    scale = side * DIGIT_SIDE / longest
    if abs(longest - side * DIGIT_SIDE) < 0.75:
        scale = 1.0  # of the right size already: moved, not resampled
    rim = int(np.ceil(1 / scale))  # soft edges, too faint to count as ink
    strokes = np.pad(strokes, rim)[top : bottom + 2 * rim, left : right + 2 * rim]
    if scale < 1:
        strokes = _thicken(strokes, PEN_WIDTH * side / scale)
    if scale != 1:
        strokes = area_resize(strokes, *(max(1, round(length * scale)) for length in strokes.shape))
        strokes = strokes * max(1.0, min(255 / max(float(strokes.max()), 1.0), 3.0))
    return center_by_mass(strokes, height, width), "centered"


def center_by_mass(ink: Grey, height: int, width: int) -> Grey:
    """On a background of 0, with the center of mass at (height / 2, width / 2); what lies outside is cut off."""
    y, x = _center_of_mass(ink)
    canvas = Image.new("F", (width, height))
    canvas.paste(Image.fromarray(ink), (round(width / 2 - x), round(height / 2 - y)))
    return np.asarray(canvas)


def _center_of_mass(ink: Grey) -> tuple[float, float]:
    from scipy import ndimage  # type: ignore[import-untyped]  # takes a second to import

    y, x = ndimage.center_of_mass(ink.astype(np.float64))
    return float(y), float(x)


def _remove_specks(ink: Grey) -> Grey:
    """The ink without components too small to belong to it, soft edges included."""
    from scipy import ndimage

    labels, count = ndimage.label(ink >= INK, np.ones((3, 3)))
    if count < 2:
        return ink
    mass = np.bincount(labels.reshape(-1), (ink * (labels > 0)).reshape(-1))
    is_dirt = mass < SPECK * mass.max()
    is_dirt[0] = False
    dirt = is_dirt[labels]
    edges = ndimage.binary_dilation(dirt, np.ones((3, 3)))
    return np.where(edges & ((labels == 0) | dirt), np.float32(0), ink)


def _lies_as_in_mnist(ink: Grey, longest: int) -> bool:
    """Whether a square image needs nothing but resizing: the digit has MNIST's size and place."""
    height, width = ink.shape
    if abs(height - width) > 0.02 * max(height, width):
        return False
    pixel = 28 / max(height, width)
    y, x = ((place + 0.5) * pixel - 0.5 for place in _center_of_mass(ink))
    return abs(longest * pixel - 20) < 1.1 and abs(y - 14) < 0.85 and abs(x - 14) < 0.85


def _thicken(ink: Grey, width: float) -> Grey:
    """Strokes thinner than ``width`` pixels made about that wide."""
    from scipy import ndimage

    mask = ink >= INK
    mean = 4 * float(ndimage.distance_transform_edt(mask)[mask].mean()) - 2  # exact for a long band
    more = round(width - mean)
    if more < 1:
        return ink
    return np.asarray(ndimage.grey_dilation(ink, size=more + 1), dtype=np.float32)
