"""SimCLR augmentation for a whole batch, as tensor code on the training device.

The steps are random resized crop, mirror, color jitter, grayscale and Gaussian blur. Steps and distributions are those
of Chen et al. 2020, as configured in torchvision by the released BNS code. Each image has its own random parameters.
All of them are drawn before any pixel is read.

Deviation: torchvision rounds a uint8 or PIL image to whole levels after each step. Here the pixels stay float32 from
the crop to the end. The result agrees with torchvision on float images to about 1e-5 of the range (1e-4 at 224 pixels).

Nothing here makes the CPU wait for the GPU.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from longtail.core.errors import ConfigError

MAX_STRENGTH = 2.5  # shifts the hue by up to half a turn
CROP_ATTEMPTS = 10
CROP_AREA = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
JITTER = 0.8  # range of brightness, contrast and saturation per unit of strength
JITTER_HUE = 0.2
P_MIRROR, P_JITTER, P_GRAYSCALE = 0.5, 0.8, 0.2
BLUR_SIGMA = (0.1, 2.0)
NO_BLUR = 1e-3  # a sigma whose weights are 1 at the center and 0 elsewhere
MOCO_CROP = 0.2  # smallest crop area of MoCo v2
MOCO_STRENGTH = 0.5  # MoCo's jitter (0.4, 0.4, 0.4, 0.1) is half of SimCLR's
LUMA = (0.2989, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# On a CPU a batch is split into parts of this many pixels (128 images of 32 x 32), so that the work fits in the cache.
CPU_PIXELS = 2**17


@dataclass(frozen=True)
class Parameters:
    """Random parameters for B images.

    Attributes:
        top, left, height, width: (B,) int64, the crop window in pixels.
        mirror, jitter, grayscale: (B,) bool, whether the step is applied.
        brightness, contrast, saturation: (B,) float32 factors; 1 means no change.
        hue: (B,) float32 shift in turns, in [-0.5, 0.5].
        order: (B, 4) int64, each row a permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE.
        sigma: (B,) float32, width of the blur in pixels.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirror: Tensor
    jitter: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor
    grayscale: Tensor
    sigma: Tensor

    def split(self, size: int) -> list["Parameters"]:
        """Split into parts of ``size`` images. The last part may be smaller."""
        parts = zip(*(values.split(size) for values in vars(self).values()), strict=True)
        return [Parameters(*part) for part in parts]


def simclr_batch(
    images: Tensor,
    rows: Tensor,
    generator: torch.Generator,
    *,
    jitter_strength: float,
    flip: bool = True,
    smallest_crop: float = CROP_AREA[0],
    p_blur: float = 1.0,
) -> Tensor:
    """Return one augmented view of each image in ``rows``.

    Args:
        images: (N, H, W, channels) uint8, the whole dataset; 1 or 3 channels. Saturation, hue and grayscale do not
            change one-channel images.
        rows: (B,) int64, which images to use, on the device of ``images``.
        generator: on the same device; the source of all random numbers.
        jitter_strength: s in ColorJitter(0.8s, 0.8s, 0.8s, 0.2s), 0 to 2.5; 0 means no jitter.
        flip: mirror half of the images.
        smallest_crop: smallest crop area, as a fraction of the image.
        p_blur: probability that an image is blurred.

    Returns:
        (B, channels, H, W) float32 in [0, 255].

    Raises:
        ConfigError: ``jitter_strength`` out of range.
    """
    height, width = images.shape[1:3]
    parameters = draw_parameters(
        len(rows), height, width, generator, jitter_strength=jitter_strength, flip=flip, smallest_crop=smallest_crop
    )
    if 0 < p_blur < 1:
        blurred = torch.rand(len(rows), generator=generator, device=generator.device) < p_blur
        parameters = replace(parameters, sigma=torch.where(blurred, parameters.sigma, NO_BLUR))
    part = max(1, CPU_PIXELS // (height * width)) if images.device.type == "cpu" else max(1, len(rows))
    views = torch.empty(len(rows), images.shape[3], height, width, device=images.device, dtype=torch.float32)
    for some_rows, some, view in zip(rows.split(part), parameters.split(part), views.split(part), strict=True):
        pixels = resized_crop(images, some_rows, some)
        if jitter_strength > 0:
            pixels = color_jitter(pixels, some)
        pixels = grayscale(pixels, some.grayscale)
        torch.clamp(gaussian_blur(pixels, some.sigma) if p_blur > 0 else pixels, 0, 255, out=view)
    return views


def draw_parameters(
    count: int,
    height: int,
    width: int,
    generator: torch.Generator,
    *,
    jitter_strength: float,
    flip: bool = True,
    smallest_crop: float = CROP_AREA[0],
) -> Parameters:
    """Draw random parameters for ``count`` images of ``height`` x ``width`` pixels, on the generator's device.

    The same generator state gives the same crops, orders and blurs for any ``jitter_strength`` and ``flip``.

    Raises:
        ConfigError: ``jitter_strength`` out of range.
    """
    if not 0 <= jitter_strength <= MAX_STRENGTH:
        raise ConfigError(f"jitter_strength must be from 0 to {MAX_STRENGTH}, got {jitter_strength}")
    device = generator.device
    uniform = torch.rand(2 * CROP_ATTEMPTS + 14, count, generator=generator, device=device, dtype=torch.float32)
    area, ratio, place, steps, keys = uniform.split([CROP_ATTEMPTS, CROP_ATTEMPTS, 2, 8, 4])
    pixels = _between(area, smallest_crop, CROP_AREA[1]) * (height * width)
    top, left, crop_height, crop_width = _draw_crop(pixels, ratio, place, height, width)
    spread = JITTER * jitter_strength
    factors = _between(steps[:3], max(0.0, 1 - spread), 1 + spread)
    return Parameters(
        top=top,
        left=left,
        height=crop_height,
        width=crop_width,
        mirror=steps[3] < (P_MIRROR if flip else 0),
        jitter=steps[4] < (P_JITTER if jitter_strength > 0 else 0),
        brightness=factors[0],
        contrast=factors[1],
        saturation=factors[2],
        hue=_between(steps[5], -JITTER_HUE * jitter_strength, JITTER_HUE * jitter_strength),
        order=keys.argsort(dim=0, stable=True).T,
        grayscale=steps[6] < P_GRAYSCALE,
        sigma=_between(steps[7], *BLUR_SIGMA),
    )


def _draw_crop(
    pixels: Tensor, ratio: Tensor, place: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do what torchvision's RandomResizedCrop.get_params does: return top, left, height and width, (B,) int64 each.

    The first attempt that fits into the image is used. If none fits, the window is the largest central crop with an
    allowed ratio.

    Args:
        pixels: (attempts, B) areas of the windows in pixels.
        ratio: (attempts, B) uniform numbers.
        place: (2, B) uniform numbers.
    """
    aspect = _between(ratio, math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])).exp()
    widths, heights = (pixels * aspect).sqrt().round().long(), (pixels / aspect).sqrt().round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first, none = fits.to(torch.uint8).argmax(dim=0, keepdim=True), ~fits.any(dim=0)
    central_height = min(height, round(width / CROP_RATIO[0]))
    central_width = min(width, round(height * CROP_RATIO[1]))
    crop_height = heights.gather(0, first)[0].masked_fill(none, central_height)
    crop_width = widths.gather(0, first)[0].masked_fill(none, central_width)
    room_y, room_x = height - crop_height, width - crop_width
    top = torch.minimum((place[0] * (room_y + 1)).long(), room_y)
    left = torch.minimum((place[1] * (room_x + 1)).long(), room_x)
    return torch.where(none, room_y // 2, top), torch.where(none, room_x // 2, left), crop_height, crop_width


def _between(uniform: Tensor, low: float, high: float) -> Tensor:
    return (low + uniform * (high - low)).clamp(low, high)


def resized_crop(images: Tensor, rows: Tensor, parameters: Parameters) -> Tensor:
    """Crop the windows, enlarge them to the image size with bilinear interpolation, then mirror.

    A window is never larger than the image, so no antialiasing is needed.

    Args:
        images: (N, H, W, channels) uint8.
        rows: (B,) int64.

    Returns:
        (B, channels, H, W) float32 in [0, 255], up to rounding.
    """
    height, width = images.shape[1:3]
    y = _source(parameters.top, parameters.height, height)
    x = _source(parameters.left, parameters.width, width)
    x = torch.where(parameters.mirror[:, None], x.flip(1), x)
    # In grid_sample, -1 and 1 are the outer edges of the outermost pixels.
    y, x = (2 * y + 1) / height - 1, (2 * x + 1) / width - 1
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3)
    pixels = images[rows].permute(0, 3, 1, 2).to(torch.float32)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _source(start: Tensor, size: Tensor, length: int) -> Tensor:
    """Return the input position of the centers of ``length`` output pixels, (B, length), within the window."""
    center = torch.arange(length, device=start.device, dtype=torch.float32) + 0.5
    inside = center * (size[:, None] / length) - 0.5
    return start[:, None] + torch.minimum(inside.clamp_(min=0), (size - 1)[:, None])


def color_jitter(pixels: Tensor, parameters: Parameters) -> Tensor:
    """Apply brightness, contrast, saturation and hue in each image's own order, if ``parameters.jitter`` is set.

    Brightness, contrast and saturation blend the image with another one: black, its mean gray or its grayscale version.
    A factor of 1 leaves the image unchanged. Every image goes through three blend steps, then hue, then three more
    blend steps. Blends that belong on the other side of hue get a factor of 1.

    Args:
        pixels: (B, channels, H, W) float32 in [0, 255], up to rounding.
    """
    in_color = pixels.shape[1] == 3
    order = parameters.order
    factors = torch.stack([parameters.brightness, parameters.contrast, parameters.saturation], dim=1)
    factor = factors.gather(1, order.clamp(max=SATURATION))
    unchanged = ~parameters.jitter[:, None] | (order == HUE)
    if not in_color:
        unchanged = unchanged | (order == SATURATION)
    hue_step = (order == HUE).to(torch.uint8).argmax(dim=1, keepdim=True)
    after = torch.arange(4, device=order.device) > hue_step
    before_factor, after_factor = (factor.masked_fill(unchanged | other_side, 1) for other_side in (after, ~after))
    for step in range(3):
        pixels = _blend(pixels, order[:, step], before_factor[:, step])
    if in_color:
        pixels = adjust_hue(pixels, parameters.hue * parameters.jitter)
    for step in range(1, 4):
        pixels = _blend(pixels, order[:, step], after_factor[:, step])
    return pixels


def _blend(pixels: Tensor, operation: Tensor, factor: Tensor) -> Tensor:
    """Return ``factor * pixels + (1 - factor) * other``, clamped to [0, 255]. ``operation`` (B,) selects ``other``."""
    factor, operation = factor.view(-1, 1, 1, 1), operation.view(-1, 1, 1, 1)
    gray = _gray(pixels)
    mean_share, gray_share = (1 - factor) * (operation == CONTRAST), (1 - factor) * (operation == SATURATION)
    mixed_in = gray.mean(dim=(1, 2, 3), keepdim=True) * mean_share + gray * gray_share
    return torch.addcmul(mixed_in, pixels, factor).clamp_(0, 255)


def adjust_hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue of each image in HSV space. A ``shift`` of 0 leaves the image unchanged.

    Let chroma = max - min. The hue is 1 + (G + B - R - min) / chroma sixths of a turn away from red, toward green if
    G > B. Each channel is min + chroma * clamp(2 - d, 0, 1), where d is the distance in sixths of a turn between the
    hue and the channel's own hue.

    Args:
        pixels: (B, 3, H, W) float32 in [0, 255].
        shift: (B,) float32, in turns.
    """
    red, green, blue = pixels.unbind(dim=1)
    low = pixels.amin(dim=1)
    chroma = pixels.amax(dim=1) - low
    distance = (green + blue).sub_(red).sub_(low).div_(chroma.clamp(min=1e-12)).add_(1)
    turn = distance.copysign_(green - blue).div_(6).add_(shift.view(-1, 1, 1))
    changed = (shift != 0).to(torch.float32).view(-1, 1, 1)
    rotated = torch.empty_like(pixels)
    for channel in range(3):
        away = turn - channel / 3
        share = away.sub_(away.round()).abs_().mul_(-6).add_(2).clamp_(0, 1)
        torch.lerp(pixels[:, channel], share.mul_(chroma).add_(low), changed, out=rotated[:, channel])
    return rotated


def grayscale(pixels: Tensor, chosen: Tensor) -> Tensor:
    """Turn images gray in all channels where ``chosen`` (B,) bool is true. The shape (B, channels, H, W) is kept."""
    return torch.lerp(pixels, _gray(pixels), chosen.to(torch.float32).view(-1, 1, 1, 1))


def _gray(pixels: Tensor) -> Tensor:
    """Convert (B, channels, H, W) to gray, (B, 1, H, W)."""
    assert pixels.shape[1] in (1, 3), "1 or 3 channels"
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, dim=1)
    return red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def gaussian_blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own sigma (B,), reflecting at the border. The shape (B, channels, H, W) is kept.

    The kernel is 2 * floor(side / 20) + 1 pixels wide, about a tenth of the shorter side. Below 20 pixels it is 1 pixel
    wide, so there is no blur.
    """
    height, width = pixels.shape[2:]
    half = min(height, width) // 20
    if half == 0:
        return pixels
    weights = blur_weights(sigma, half)[:, :, None, None, None].unbind(dim=1)
    padded = F.pad(pixels, (half, half, half, half), mode="reflect")
    columns = padded[:, :, :height] * weights[0]
    for offset, weight in enumerate(weights[1:], start=1):
        columns.addcmul_(padded[:, :, offset : offset + height], weight)
    blurred = columns[..., :width] * weights[0]
    for offset, weight in enumerate(weights[1:], start=1):
        blurred.addcmul_(columns[..., offset : offset + width], weight)
    return blurred


def blur_weights(sigma: Tensor, half: int) -> Tensor:
    """Return Gaussian weights at the offsets -half..half, which sum to 1, (B, 2 * half + 1). sigma: (B,)."""
    offsets = torch.arange(-half, half + 1, device=sigma.device, dtype=torch.float32)
    return torch.softmax((offsets / sigma[:, None]).square() / -2, dim=1)
