"""Undersampling of every class in a dataset with one of the samplers, reproducible class by class."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from longtail.core.errors import ConfigError, DataError
from longtail.core.seeds import generator
from longtail.methods.ipdpp.checks import as_features, as_vector, check_choice
from longtail.methods.ipdpp.controls import uniform, uniform_official
from longtail.methods.ipdpp.information import SCALES, Information
from longtail.methods.ipdpp.lowrank import LowRankKDPP
from longtail.methods.ipdpp.structured import RankOneKDPP

SAMPLERS = ("ipdpp", "uniform", "uniform_official", "feature_kdpp")
Label = int | str
Size = int | str | Mapping[Label, int] | list[int] | tuple[int, ...] | np.ndarray


@dataclass(frozen=True, eq=False)
class Selection:
    """The items that ``select`` chose from N items.

    Attributes:
        indices: (M,) sorted int64.
        inclusion_probability: (N,) float64, the probability that each item is chosen; 1 in a class that is kept whole.
        available, kept: number of items of each class before and after.
    """

    indices: np.ndarray
    inclusion_probability: np.ndarray
    available: dict[Label, int]
    kept: dict[Label, int]


def select(
    y: ArrayLike,
    k: Size,
    *,
    seed: int = 0,
    round: int = 0,
    probability: ArrayLike | None = None,
    log_probability: ArrayLike | None = None,
    sampler: str = "ipdpp",
    scale: str = "n",
    features: ArrayLike | None = None,
    beta: float = 0.0,
    epsilon: float = 1e-3,
    ridge: float = 0.0,
) -> Selection:
    """Choose min(k, N_c) items of each class c. A class with at most k items is kept whole without a draw.

    The draw from a class depends only on (seed, round, label) and on the class's own items in their order, not on other
    classes. A class that ``k`` names but that has no items causes a warning.

    Args:
        y: (N,) labels, integers or strings.
        k: items per class, in one of four forms: one integer for all classes; "10*n_min" for ten times the size of the
            smallest class; a list with one integer for each of the classes 0..C-1; or a mapping from label to integer,
            which keeps the classes it does not name whole.
        seed, round: name the random stream.
        probability, log_probability: (N,) float32 or float64, the probability of each item's own label, or its natural
            logarithm, which is more precise near 1. "ipdpp" needs one of them.
        sampler: one of these:

            - "ipdpp": the k-DPP of Lin & Yuan 2025.
            - "uniform": all subsets are equally likely.
            - "uniform_official": what the released code draws. It ignores seed, round and probabilities.
            - "feature_kdpp": not part of the method. L_ij = g_i g_j f_i.f_j, where f_i is row i of ``features`` scaled
              to unit length and g_i = (epsilon - log p_i)^(beta / 2).
        scale: kernel of "ipdpp": "n" (paper) or "n2" (released code).
        features: (N, D), for "feature_kdpp". A zero row is drawn only if ridge > 0.
        beta, epsilon: exponent and offset of g in "feature_kdpp". With beta = 0, only diversity counts.
        ridge: added to the diagonal in "feature_kdpp". Values above 0 allow k above the rank of the features.

    Raises:
        ConfigError: an invalid parameter; names the class if there is one.
        DataError: an invalid array; names the class if there is one.
    """
    check_choice("sampler", sampler, SAMPLERS)
    check_choice("scale", scale, SCALES)
    members = _positions_by_class(y)
    total = sum(len(items) for items in members.values())
    sizes = _sizes_by_class(k, {label: len(items) for label, items in members.items()})
    if probability is None and log_probability is None and (sampler == "ipdpp" or (sampler == "feature_kdpp" and beta)):
        raise ConfigError(f"probability or log_probability must be given for sampler {sampler}, got neither")
    information = _information_by_class(members, total, probability, log_probability, scale)
    rows = _feature_rows(features, total, information, members, beta, epsilon) if sampler == "feature_kdpp" else None
    official = _draw_official(members, sizes) if sampler == "uniform_official" else {}

    chosen, inclusion = [np.empty(0, dtype=np.int64)], np.ones(total)
    for label, items in members.items():
        size = sizes[label]
        if size >= len(items):
            chosen.append(items)
            continue
        stream = generator("dpp", int(seed), int(round), label if isinstance(label, int) else str(label))
        if sampler == "ipdpp" or rows is not None:
            process = _create_dpp(label, size, information.get(label), None if rows is None else rows[items], ridge)
            positions, inclusion[items] = process.sample(stream), process.inclusion_probability()
        else:
            positions = official[label] if official else uniform(len(items), size, stream)
            inclusion[items] = size / len(items)
        chosen.append(items[positions])
    available = {label: len(members[label]) if label in members else 0 for label in sizes}
    kept = {label: min(sizes[label], count) for label, count in available.items()}
    return Selection(np.sort(np.concatenate(chosen)), inclusion, available, kept)


def _positions_by_class(y: ArrayLike) -> dict[Label, np.ndarray]:
    """Map each label, in ascending order, to the ascending positions of its items."""
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise DataError(f"y must have shape (N,), got {labels.shape}")
    names, position = np.unique(labels, return_inverse=True)
    order = np.argsort(position, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(position, minlength=len(names)))[:-1])
    return dict(zip(names.tolist(), parts, strict=True)) if len(names) else {}


def _sizes_by_class(k: Size, counts: dict[Label, int]) -> dict[Label, int]:
    """Map each label to the largest number of items to draw, including labels that only ``k`` names."""
    sizes: dict[Label, int]
    if isinstance(k, str):
        factor = re.fullmatch(r"(\d+) ?\* ?n_min", k)
        if not factor:
            raise ConfigError(f'k must be integers or a multiple of the smallest class such as "10*n_min", got {k!r}')
        sizes = dict.fromkeys(counts, int(factor[1]) * min(counts.values(), default=0))
    elif isinstance(k, Mapping):
        sizes = {**counts, **k}
    elif isinstance(k, list | tuple | np.ndarray):
        sizes = dict(enumerate(k))
        if missing := counts.keys() - sizes.keys():
            raise ConfigError(
                f"k must have an integer for class {min(missing)}, got {len(k)} integers, for the classes from 0"
            )
    else:
        sizes = dict.fromkeys(counts, k)
    for label, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 0:
            raise ConfigError(f"k must be an integer of at least 0, got {size!r} for class {label}")
        if label not in counts:
            warnings.warn(f"class {label} has no items", stacklevel=3)
    return {label: int(size) for label, size in sizes.items()}


def _information_by_class(
    members: dict[Label, np.ndarray],
    total: int,
    probability: ArrayLike | None,
    log_probability: ArrayLike | None,
    scale: str,
) -> dict[Label, Information]:
    if probability is not None and log_probability is not None:
        raise ConfigError("exactly one of probability and log_probability must be given, got both")
    if probability is not None:
        p = as_vector("probability", probability, total)
        return {label: Information.from_probability(p[items], scale, label) for label, items in members.items()}
    if log_probability is not None:
        log_p = as_vector("log_probability", log_probability, total)
        return {label: Information.from_log_probability(log_p[items], scale, label) for label, items in members.items()}
    return {}


def _feature_rows(
    features: ArrayLike | None,
    total: int,
    information: dict[Label, Information],
    members: dict[Label, np.ndarray],
    beta: float,
    epsilon: float,
) -> np.ndarray:
    """Return each item's unit vector times its quality g, (N, D). Zero rows stay zero."""
    if features is None:
        raise ConfigError("features must be given for sampler feature_kdpp, got none")
    if not np.isfinite(beta):
        raise ConfigError(f"beta must be finite, got {beta!r}")
    if not (np.isfinite(epsilon) and epsilon > 0):
        raise ConfigError(f"epsilon must be finite and greater than 0, got {epsilon!r}")
    rows = as_features(features)
    if len(rows) != total:
        raise DataError(f"features must have {total} rows, one per label, got {len(rows)}")
    length = np.linalg.norm(rows, axis=1)
    factor = np.divide(1.0, length, out=np.zeros(total), where=length > 0)
    if beta:
        for label, items in members.items():
            factor[items] *= (epsilon + information[label].content) ** (beta / 2)
    return rows * factor[:, None].astype(rows.dtype)


def _create_dpp(
    label: Label, size: int, information: Information | None, rows: np.ndarray | None, ridge: float
) -> RankOneKDPP | LowRankKDPP:
    """Set up the k-DPP of one class, from its feature rows if given and otherwise from its information."""
    if rows is None:
        assert information is not None
        return RankOneKDPP(information.d, information.r, size)
    try:
        return LowRankKDPP(rows, size, ridge)
    except ConfigError as error:
        raise ConfigError(f"class {label}: {error}") from error


def _draw_official(members: dict[Label, np.ndarray], sizes: dict[Label, int]) -> dict[Label, np.ndarray]:
    if len(set(sizes.values())) > 1:
        given = sorted(set(sizes.values()))
        raise ConfigError(f"k must be the same for all classes with sampler uniform_official, got {given}")
    drawn = uniform_official([len(items) for items in members.values()], max(sizes.values(), default=1))
    return dict(zip(members, drawn, strict=True))
