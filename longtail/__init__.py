"""Long-tailed image recognition: data splits, training, classifier heads and evaluation, free of paths and of DVC."""

__version__ = "0.1.0"
