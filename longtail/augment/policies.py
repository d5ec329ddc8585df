"""Names of the augmentation policies."""

MEMORY_POLICIES = (
    "none",
    "crop",
    "crop_flip",
    "cutout",
    "sim",
    "autoaugment",
    "randaugment",
    "simclr",
    "simclr_noflip",
    "moco",
    "moco_noflip",
)
PATH_POLICIES = (
    "none",
    "resized_crop",
    "resized_crop_jitter",
    "sim",
    "autoaugment",
    "randaugment",
    "simclr",
    "simclr_noflip",
    "moco",
    "moco_noflip",
)
POLICIES = tuple(dict.fromkeys(MEMORY_POLICIES + PATH_POLICIES))
