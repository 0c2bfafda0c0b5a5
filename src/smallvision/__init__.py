"""smallvision: Lightning + Hydra experiments on small images."""

__version__ = "0.1.0"
