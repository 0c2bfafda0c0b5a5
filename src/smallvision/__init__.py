"""smallvision: Lightning + Hydra experiments on small images."""

__version__ = "0.2.0"
