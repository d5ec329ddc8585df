"""``simclr`` without the mirror, for images such as digits."""

from longtail.augment.policies import PolicyEntry
from longtail.augment.simclr_policies import simclr

POLICY = PolicyEntry(*simclr(flip=False), jitters=True)
