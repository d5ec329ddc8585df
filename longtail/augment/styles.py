"""The policy that ``auto`` means."""

# What auto means in each style: for digits (a mirrored digit is no longer a digit), other data in memory, and files.
STYLES = {
    "plain": ("crop", "crop_flip", "resized_crop_jitter"),
    "simclr": ("simclr_noflip", "simclr", "simclr"),
    "moco": ("moco_noflip", "moco", "moco"),
    "sim": ("moco_noflip", "sim", "sim"),
}
