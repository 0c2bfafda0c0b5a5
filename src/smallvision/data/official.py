"""Which arrays are the official ones of a named data set, whatever container they lie in."""

from dataclasses import dataclass

import torch
from torch import Tensor

from smallvision.data.record import PARTS, ImageData, digest
from smallvision.errors import Refusal


@dataclass(frozen=True)
class Array:
    """The official array: its shape, and the SHA-256 of its first ``known`` entries, labels as one byte."""

    shape: tuple[int, ...]
    sha256: str
    known: int


def held_against(
    official: dict[str, Array], name: str, classes: list[str], source: str, parts: dict[str, Tensor],
    files: dict[str, str],
) -> ImageData:  # fmt: skip
    """The record of ``parts``, each held against the official array; ``files`` says where each lies.

    Where an array has the official size (or, for test arrays beside genuine training arrays, at least the
    known part of it) but other bytes, it is damaged: Refusal, naming the file. Arrays of another size are
    somebody's own: they are used as a stand-in and say so. Fewer test images than the official set has
    are remarked upon.
    """
    digests: dict[str, str] = {}
    foreign: set[str] = set()
    for part in PARTS:
        array, expected = parts[part], official[part]
        stored = array.to(torch.uint8) if part.endswith("labels") else array
        if array.shape[1:] == expected.shape[1:] and expected.known <= len(array) <= expected.shape[0]:
            first = digest(stored[: expected.known])
            if expected.known == len(array) == expected.shape[0] and stored is array:
                digests[part] = first
            if first == expected.sha256:
                continue
            full = array.shape == expected.shape
            if full or (part.startswith("test") and not foreign):
                raise Refusal(
                    f"{files[part]}: altered: these are not the official {name} bytes;"
                    " delete the file to download it again"
                )
        foreign.add(part)
    count, whole = len(parts["test_labels"]), official["test_labels"].shape[0]
    stand_in_for, remark = None, None
    if foreign & {"train_images", "train_labels"}:
        stand_in_for, source = name, f"{source}: not the official {name}, other images of its form"
    elif foreign and count:
        remark = f"the {count:,} test images are not the official ones"
    elif count < whole:
        remark = f"only {count:,} of the {whole:,} test images are here"
    return ImageData.of(
        parts, name, source, classes, stand_in_for=stand_in_for, remark=remark, digests=digests
    )
