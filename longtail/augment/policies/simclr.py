"""SimCLR's recipe (Chen et al. 2020), see ``longtail.augment.simclr``."""

from longtail.augment.policies import PolicyEntry
from longtail.augment.simclr_policies import simclr

POLICY = PolicyEntry(*simclr(flip=True), jitters=True)
