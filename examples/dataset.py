"""A data set of one's own: images that a function makes, or reads from wherever they are.

python train.py use=examples.dataset data._target_=examples.dataset.gratings data.noise=40
"""

import numpy as np


def gratings(count: int = 3000, size: int = 16, noise: float = 30.0) -> dict[str, object]:
    """Stripes in four directions, with noise: uint8 images N x size x size and their labels.

    A dict of ``x_train``, ``y_train``, ``x_test``, ``y_test`` and ``classes`` is one of the forms that data may have;
    docs/extend.md has the others. ``noise``: its standard deviation, in grey levels.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, count)
    angles = labels * np.pi / 4 + rng.normal(0, 0.1, count)
    y, x = np.mgrid[:size, :size] / size
    along = np.cos(angles)[:, None, None] * x + np.sin(angles)[:, None, None] * y
    waves = np.sin(2 * np.pi * (3 * along + rng.random(count)[:, None, None]))
    images = (128 + 80 * waves + rng.normal(0, noise, waves.shape)).clip(0, 255).astype(np.uint8)
    test = count // 6
    return {
        "x_train": images[test:], "y_train": labels[test:], "x_test": images[:test], "y_test": labels[:test],
        "classes": ["horizontal", "rising", "vertical", "falling"],
    }  # fmt: skip
