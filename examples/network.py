"""A network of one's own: an MLP-Mixer (I. Tolstikhin et al., arXiv:2105.01601), small.

python train.py use=examples.network model._target_=examples.network.Mixer model.width=64 data=fashion_mnist
"""

from torch import Tensor, nn


class Mixer(nn.Module):
    """Images as floats N x channels x H x W in, logits N x classes out.

    ``channels``, ``size`` (height, width) and ``classes`` come from the data; ``width``: numbers per patch; ``depth``:
    blocks; ``patch``: pixels, side of a patch, which must divide height and width.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], classes: int, width: int = 64, depth: int = 2, patch: int = 4
    ) -> None:
        super().__init__()
        if size[0] % patch or size[1] % patch:
            raise ValueError(f"patch={patch} does not divide images of {size[0]}x{size[1]}")
        patches = (size[0] // patch) * (size[1] // patch)
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.blocks = nn.Sequential(*(Block(patches, width) for _ in range(depth)))
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)  # N x patches x width
        return self.head(self.blocks(tokens).mean(1))


class Block(nn.Module):
    """Mixes the patches, then the numbers of each patch."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.across, self.within = mlp(patches), mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.across(self.norms[0](tokens).transpose(1, 2)).transpose(1, 2)
        return tokens + self.within(self.norms[1](tokens))


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
