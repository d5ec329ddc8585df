"""Learning-rate schedules: the multiplier of the base rate at a position in training.

All but ``cosine_per_step`` are constant within an epoch and set before the epoch starts, as in the codes they come
from. With t the 1-based epoch, T the number of epochs and w the warm-up epochs, t <= w gives t/w; after that

- "constant": 1;
- "cosine": (1 + cos(pi (t-w)/(T-w))) / 2. Without warm-up this is the schedule of Kang et al. 2020 (official code):
  the first epoch is already below the base rate and the last one runs at exactly 0. A single epoch runs at the base
  rate, since it would train nothing at 0;
- "cosine_from_base": (1 + cos(pi (t-1-w)/(T-w))) / 2, one epoch later: the first epoch runs at the base rate and the
  last one above 0 (official codes of MoCo, and of FSGL on CIFAR);
- "step": gamma to the number of milestones before t. A single epoch has no drop by default. Cao et al. 2019
  (LDAM-DRW), 200 epochs: warm-up 5, milestones (160, 180), gamma 0.01, so the rate drops with epoch 161. The released
  code of "Essence of long-tailed recognition" tests its two late conditions in the wrong order, so that its second drop
  is never reached: milestones (160,);
- "cosine_per_step": (1 + cos(pi (t-w)/(T-w))) / 2 where t, for this schedule alone, counts the finished epochs and
  the finished part of the current one, in warm-up too: the first step has rate 0 (Lin & Yuan 2025, official code);
- "fsgl_imagenet": FSGL on ImageNet-LT (Wang et al. 2024), whose warm-up is its own: t/10 for t <= 11, at most 1, then
  (1 + cos(pi (t-10)/(T-9))) / 2;
- "fsgl_imagenet_released": what its released code does with that rule. It applies the rule at the end of an epoch, so
  that the first epoch runs at the base rate, the second at a tenth of it, and the twelfth at 1.1 of it.
"""

import math
from collections.abc import Callable, Sequence

from longtail.core.errors import ConfigError

FSGL = ("fsgl_imagenet", "fsgl_imagenet_released")
SCHEDULES = ("constant", "cosine", "step", "cosine_per_step", "cosine_from_base", *FSGL)


def create_schedule(
    name: str,
    *,
    epochs: int,
    warmup_epochs: int = 0,
    milestones: Sequence[int] | None = None,
    gamma: float = 0.1,
) -> Callable[[int, float], float]:
    """A function of (0-based epoch, fraction of that epoch in [0, 1)) that returns the multiplier of the base rate.

    Args:
        name: one of SCHEDULES.
        epochs: T, at least 1.
        warmup_epochs: w, at most T.
        milestones: of "step": 1-based epochs, the last ones before a drop. None is 80 % and 90 % of ``epochs``, rounded
            down; a drop before the first epoch is left out.
        gamma: of "step": the factor of a drop.

    Raises:
        ConfigError: an unknown name, or a value out of range.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"schedule must be one of {', '.join(SCHEDULES)}, got {name!r}")
    if epochs < 1:
        raise ConfigError(f"epochs must be at least 1, got {epochs}")
    if not 0 <= warmup_epochs <= epochs:
        raise ConfigError(f"warmup_epochs must be from 0 to epochs ({epochs}), got {warmup_epochs}")
    if name in FSGL and warmup_epochs:
        raise ConfigError(f"warmup_epochs must be 0 with schedule {name}, which has its own, got {warmup_epochs}")
    if not gamma > 0:
        raise ConfigError(f"gamma must be above 0, got {gamma}")
    default = [epoch for epoch in (epochs * 8 // 10, epochs * 9 // 10) if epoch > 0]
    drops = default if milestones is None else list(milestones)

    def constant(t: float) -> float:
        return 1.0

    def cosine(t: float) -> float:
        if epochs == 1:  # the last epoch, at rate 0, would be the only one
            return 1.0
        return per_step(t)

    def per_step(t: float) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * ((t - warmup_epochs) / (epochs - warmup_epochs))))

    def step(t: float) -> float:
        return gamma ** sum(t > milestone for milestone in drops)

    def fsgl_rule(t: float) -> float:
        return t / 10 if t <= 11 else 0.5 * (1.0 + math.cos(math.pi * (t - 10) / (epochs - 9)))

    after_warmup = {
        "constant": constant,
        "cosine": cosine,
        "cosine_from_base": lambda t: cosine(t - 1),
        "step": step,
        "cosine_per_step": per_step,
        "fsgl_imagenet": lambda t: min(1.0, fsgl_rule(t)),
        "fsgl_imagenet_released": lambda t: fsgl_rule(t - 1) if t > 1 else 1.0,
    }[name]

    def multiplier(epoch: int, fraction: float) -> float:
        assert 0 <= epoch < epochs and 0.0 <= fraction < 1.0, (epoch, fraction)
        t = epoch + fraction if name == "cosine_per_step" else epoch + 1
        return t / warmup_epochs if t <= warmup_epochs and warmup_epochs > 0 else after_warmup(t)

    return multiplier
