"""MoCo's recipe on CIFAR in memory (half of SimCLR's jitter, no blur); MoCo v2's on files, with blur."""

from longtail.augment.policies import PolicyEntry
from longtail.augment.simclr_policies import moco

POLICY = PolicyEntry(*moco(flip=True), jitters=True)
