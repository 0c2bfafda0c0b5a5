"""`data=digits`: real handwriting that comes with scikit-learn, so it needs no network."""

import torch
from torch.nn import functional as F

from smallvision.data.dataset import ImageDataset

TEST_IMAGES = 360  # the last fifth: by other writers, as scikit-learn keeps them in order


def digits() -> ImageDataset:
    """1,797 handwritten digits (8 x 8, 17 grey levels) at 1 x 28 x 28.

    The strokes are enlarged to 20 x 20 and centered, as MNIST's are. Source: E. Alpaydin and C. Kaynak,
    Optical Recognition of Handwritten Digits (UCI, 1998), as bundled with scikit-learn.
    """
    from sklearn.datasets import load_digits  # slow to import, and only this source needs it

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float().mul(255 / 16).unsqueeze(1)
    large = F.interpolate(small, size=(20, 20), mode="bilinear", align_corners=False)
    images = F.pad(large, (4, 4, 4, 4)).round().clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(bunch.target).long()
    parts = images[:-TEST_IMAGES], labels[:-TEST_IMAGES], images[-TEST_IMAGES:], labels[-TEST_IMAGES:]
    source = "scikit-learn's bundled digits, enlarged to 28x28"
    return ImageDataset("digits", source, list("0123456789"), *parts)
