"""SimCLR augmentation of a whole batch as tensor code on the training device.

Steps and distributions are those of Chen et al. 2020 as the released BNS code configures them in torchvision: random
resized crop, mirror, colour jitter, grayscale, Gaussian blur. Every image has its own random parameters, all drawn
before any pixel is read.

Deviation: torchvision rounds a uint8 or PIL image to whole levels after each step. Here the pixels stay float32 from
the crop to the end, which agrees with torchvision on float images to about 1e-5 of the range (1e-4 at 224 pixels).

Nothing here makes the host wait for the device.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from longtail.core.errors import ConfigError

MAX_STRENGTH = 2.5  # hue then turns by up to half a circle
CROP_ATTEMPTS = 10
CROP_AREA = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
JITTER = 0.8  # brightness, contrast and saturation, for each unit of strength
JITTER_HUE = 0.2
P_MIRROR, P_JITTER, P_GRAYSCALE = 0.5, 0.8, 0.2
BLUR_SIGMA = (0.1, 2.0)
NO_BLUR = 1e-3  # a sigma whose weights are 1 at the centre and 0 elsewhere
LUMA = (0.2989, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# A CPU takes a batch in parts of this many pixels (128 images of 32 x 32), whose intermediate results fit its cache.
CPU_PIXELS = 2**17


@dataclass(frozen=True)
class Parameters:
    """The random choices for B images.

    Attributes:
        top, left, height, width: (B,) int64, the crop in pixels.
        mirror, jitter, grayscale: (B,) bool, whether the step is applied.
        brightness, contrast, saturation: (B,) float32 factors, 1 changes nothing.
        hue: (B,) float32 shift in turns, in [-0.5, 0.5].
        order: (B, 4) int64, each row a permutation of BRIGHTNESS, CONTRAST, SATURATION, HUE.
        sigma: (B,) float32 of the blur, in pixels.
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
        """Parts of ``size`` images, the last one possibly smaller."""
        parts = zip(*(values.split(size) for values in vars(self).values()), strict=True)
        return [Parameters(*part) for part in parts]


def simclr_batch(
    images: Tensor,
    rows: Tensor,
    generator: torch.Generator,
    *,
    jitter_strength: float,
    flip: bool,
    smallest_crop: float = CROP_AREA[0],
    p_blur: float = 1.0,
) -> Tensor:
    """One augmented view of each of the images ``rows``.

    Args:
        images: (N, H, W, channels) uint8, the whole set; 1 or 3 channels. Saturation, hue and grayscale leave images
            of one channel as they are.
        rows: (B,) int64 which images, on the device of ``images``.
        generator: of that device; its state decides everything random.
        jitter_strength: s of ColorJitter(0.8s, 0.8s, 0.8s, 0.2s), 0 to 2.5; 0 is no jitter.
        flip: whether half of the images are mirrored.
        smallest_crop: share of the area that a window has at least.
        p_blur: share of the images that are blurred.

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
    flip: bool,
    smallest_crop: float = CROP_AREA[0],
) -> Parameters:
    """Random parameters of ``count`` images of ``height`` x ``width`` pixels, on the generator's device.

    The same state gives the same crops, orders and blurs whatever ``jitter_strength`` and ``flip`` are.

    Raises:
        ConfigError: ``jitter_strength`` out of range.
    """
    if not 0 <= jitter_strength <= MAX_STRENGTH:
        raise ConfigError(f"jitter_strength: {jitter_strength} given, a number from 0 to {MAX_STRENGTH} allowed")
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
    """torchvision's RandomResizedCrop.get_params: top, left, height and width (B,) int64.

    Args:
        pixels: (attempts, B) areas of the windows; the first attempt that fits into the image counts, and where none
            does, the largest central crop of an allowed ratio.
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
    """Cut the windows out and enlarge them to the size of the images, bilinear, then mirror.

    A window is never larger than the image, so that there is nothing to smooth against aliasing.

    Args:
        images: (N, H, W, channels) uint8.
        rows: (B,) int64.

    Returns:
        (B, channels, H, W) float32 in [0, 255] but for rounding.
    """
    height, width = images.shape[1:3]
    y = _source(parameters.top, parameters.height, height)
    x = _source(parameters.left, parameters.width, width)
    x = torch.where(parameters.mirror[:, None], x.flip(1), x)
    # grid_sample counts from -1 to 1 between the outer edges of the outer pixels.
    y, x = (2 * y + 1) / height - 1, (2 * x + 1) / width - 1
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3)
    pixels = images[rows].permute(0, 3, 1, 2).to(torch.float32)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _source(start: Tensor, size: Tensor, length: int) -> Tensor:
    """Where ``length`` output pixels lie in the input, by their centres: (B, length), inside the window."""
    centre = torch.arange(length, device=start.device, dtype=torch.float32) + 0.5
    inside = centre * (size[:, None] / length) - 0.5
    return start[:, None] + torch.minimum(inside.clamp_(min=0), (size - 1)[:, None])


def color_jitter(pixels: Tensor, parameters: Parameters) -> Tensor:
    """Brightness, contrast, saturation and hue in each image's own order, where ``parameters.jitter`` is set.

    Brightness, contrast and saturation mix an image with another one (black, its mean gray, its gray picture), and a
    factor of 1 returns it unchanged. So every image takes up to three such steps, then the hue, then up to three, with
    factor 1 for those that come on the other side of the hue.

    Args:
        pixels: (B, channels, H, W) float32 in [0, 255] but for rounding.
    """
    colour = pixels.shape[1] == 3
    order = parameters.order
    factors = torch.stack([parameters.brightness, parameters.contrast, parameters.saturation], dim=1)
    factor = factors.gather(1, order.clamp(max=SATURATION))
    unchanged = ~parameters.jitter[:, None] | (order == HUE)
    if not colour:
        unchanged = unchanged | (order == SATURATION)
    hue_step = (order == HUE).to(torch.uint8).argmax(dim=1, keepdim=True)
    after = torch.arange(4, device=order.device) > hue_step
    before_factor, after_factor = (factor.masked_fill(unchanged | other_side, 1) for other_side in (after, ~after))
    for step in range(3):
        pixels = _blend(pixels, order[:, step], before_factor[:, step])
    if colour:
        pixels = adjust_hue(pixels, parameters.hue * parameters.jitter)
    for step in range(1, 4):
        pixels = _blend(pixels, order[:, step], after_factor[:, step])
    return pixels


def _blend(pixels: Tensor, operation: Tensor, factor: Tensor) -> Tensor:
    """``factor * pixels + (1 - factor) * other`` within [0, 255], ``other`` by each image's operation (B,)."""
    factor, operation = factor.view(-1, 1, 1, 1), operation.view(-1, 1, 1, 1)
    gray = _gray(pixels)
    mean_share, gray_share = (1 - factor) * (operation == CONTRAST), (1 - factor) * (operation == SATURATION)
    mixed_in = gray.mean(dim=(1, 2, 3), keepdim=True) * mean_share + gray * gray_share
    return torch.addcmul(mixed_in, pixels, factor).clamp_(0, 255)


def adjust_hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue in HSV space, image by image; ``shift`` 0 returns an image unchanged.

    With chroma = max - min, the hue lies 1 + (G + B - R - min) / chroma sixths of a turn from red, towards green where
    G > B. A channel is min + chroma * clamp(2 - d, 0, 1), d being the distance of the hue from that channel's own, in
    sixths.

    Args:
        pixels: (B, 3, H, W) float32 in [0, 255].
        shift: (B,) float32 in turns.
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
    """Gray in all channels where ``chosen`` (B,) bool says so: (B, channels, H, W) -> the same shape."""
    return torch.lerp(pixels, _gray(pixels), chosen.to(torch.float32).view(-1, 1, 1, 1))


def _gray(pixels: Tensor) -> Tensor:
    """(B, channels, H, W) -> (B, 1, H, W)."""
    assert pixels.shape[1] in (1, 3), "1 or 3 channels"
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, dim=1)
    return red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def gaussian_blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Blur with one sigma (B,) for each image, reflecting at the border: (B, channels, H, W) -> the same shape.

    The kernel is 2 * floor(side / 20) + 1 wide, a tenth of the shorter side: 1 (no blur) below 20 pixels.
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
    """Gaussian weights at the offsets -half..half, sum 1: (B,) -> (B, 2 * half + 1)."""
    offsets = torch.arange(-half, half + 1, device=sigma.device, dtype=torch.float32)
    return torch.softmax((offsets / sigma[:, None]).square() / -2, dim=1)
