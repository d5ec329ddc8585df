"""Rotation prediction: self-supervised pretraining on the images of the split, without their labels.

Sources:

- Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018.
- Yang & Xu, "Rethinking the Value of Labels for Improving Class-Imbalanced Learning", NeurIPS 2020, and its official
  code: its use before long-tailed recognition, with one rotated copy of each image instead of four.

Deviations:

- The released code picks its best epoch on test images, although it continues from the last. Here nothing is selected.
- Its default split differs from the split of the training that follows. Here both are the same.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.models.classifier import Classifier
from longtail.train.batches import Batch
from longtail.train.objective import Objective, Position

QUARTERS = 4


class Rotation(Objective):
    """Cross-entropy of the quarter turn that each image was given, on a linear head of four outputs.

    Logs ``rotation_accuracy`` in [0, 1]. The head is discarded afterwards.
    """

    def create_head(self) -> nn.Module:
        return nn.Linear(self.task.num_features, QUARTERS)

    def loss(self, model: Classifier, batch: Batch, position: Position) -> tuple[Tensor, dict[str, Tensor]]:
        (images,) = batch.views
        turns = draw_turns(len(images), images.device)
        logits = model(rotate(images, turns)).float()
        correct = (logits.detach().argmax(dim=1) == turns).float().mean()
        return F.cross_entropy(logits, turns), {"rotation_accuracy": correct}


def draw_turns(count: int, device: torch.device) -> Tensor:
    """(count,) int64 quarter turns from 0 to 3 in random order, nearly balanced."""
    turns = torch.arange(QUARTERS, device=device).repeat(count // QUARTERS + 1)
    return turns[torch.randperm(len(turns), device=device)[:count]]


def rotate(images: Tensor, turns: Tensor) -> Tensor:
    """Turn each square image counterclockwise by 90 degrees ``turns`` times: (B, channels, S, S), (B,) -> images."""
    assert images.shape[2] == images.shape[3], "square images"
    every = torch.stack([torch.rot90(images, turn, (2, 3)) for turn in range(QUARTERS)])
    return every[turns, torch.arange(len(images), device=images.device)]
