"""Torchvision transforms that the policies for files share. Each takes one uint8 image (channels, H, W)."""

from typing import TYPE_CHECKING, Any

from torchvision.transforms import InterpolationMode, v2

if TYPE_CHECKING:
    from longtail.augment.transforms import Transform

SMALLEST_CROP = 0.08  # area of a random crop, as a fraction of the image


def whole_image(transform: "Transform") -> list[Any]:
    """Resize without augmentation: the center crop of ``crop_pct``, or the whole image as a square."""
    size, mode = transform.image_size, InterpolationMode(transform.interpolation)
    if transform.crop_pct is None:
        return [v2.Resize((size, size), mode, antialias=True)]
    return [v2.Resize(round(size / transform.crop_pct), mode, antialias=True), v2.CenterCrop(size)]


def random_crop(transform: "Transform", smallest: float = SMALLEST_CROP, flip: bool = True) -> list[Any]:
    """A random resized crop of at least ``smallest`` of the area, and a random mirror."""
    mode = InterpolationMode(transform.interpolation)
    crop = v2.RandomResizedCrop(transform.image_size, scale=(smallest, 1.0), interpolation=mode, antialias=True)
    return [crop, v2.RandomHorizontalFlip()] if flip else [crop]


def color_jitter(strength: float = 1.0) -> Any:
    """Jitter of brightness, contrast and saturation by 0.4 times ``strength`` (Kang et al. 2020)."""
    return v2.ColorJitter(brightness=0.4 * strength, contrast=0.4 * strength, saturation=0.4 * strength, hue=0)


def simclr_jitter(strength: float) -> Any:
    """SimCLR's color jitter, applied to four images out of five."""
    jitter = v2.ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    return v2.RandomApply([jitter], p=0.8)


def blur(size: int) -> Any:
    """Gaussian blur with a kernel of about a tenth of the side, and odd."""
    return v2.GaussianBlur(2 * (size // 20) + 1, (0.1, 2.0))


def some_blur(size: int) -> Any:
    """``blur`` on every second image."""
    return v2.RandomApply([blur(size)], p=0.5)
