"""``moco`` without the mirror, for images such as digits."""

from longtail.augment.policies import PolicyEntry
from longtail.augment.simclr_policies import moco

POLICY = PolicyEntry(*moco(flip=False), jitters=True)
