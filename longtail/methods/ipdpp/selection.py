"""Undersampling of every class of a data set by one of the samplers, reproducible class by class."""

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
    """What ``select`` has chosen among N items.

    indices: (M,) sorted int64; inclusion_probability: (N,) float64, how likely each item was to be chosen, 1 where a
    class is kept whole; available, kept: number of items of each class before and after.
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
    """min(k, N_c) items of each class c; a class of at most k items is kept whole without a draw.

    y: (N,) labels, integers or strings.
    k: items per class: an integer for all; "10*n_min" for ten times the smallest class; one integer for each of the
    classes 0..C-1; or a mapping from label to integer, which keeps classes that it lacks whole.
    probability or log_probability: (N,) float32 or float64, the probability of each item's own label, or its natural
    logarithm, which is more exact near 1; "ipdpp" needs one of them.
    sampler: "ipdpp", the k-DPP of Lin & Yuan 2025, with ``scale`` "n" (paper) or "n2" (released code);
    "uniform"; "uniform_official", what the released code draws, whatever seed, round and probabilities;
    "feature_kdpp", not part of the method: L_ij = g_i g_j f_i.f_j with f the rows of ``features`` (N, D), made unit
    vectors, and g_i = (epsilon - log p_i)^(beta / 2), so that beta = 0 is diversity alone; a zero row is drawn only
    with ridge > 0, which is added to the diagonal, and which a k above the rank needs.

    What is drawn from a class depends on (seed, round, label) and its own items in their order, not on other classes.
    Warns of a class that ``k`` names and that has no items. Raises ConfigError for parameters and DataError for
    arrays, naming the class where there is one.
    """
    check_choice("sampler", sampler, SAMPLERS)
    check_choice("scale", scale, SCALES)
    members = _members(y)
    total = sum(len(items) for items in members.values())
    sizes = _sizes(k, {label: len(items) for label, items in members.items()})
    if probability is None and log_probability is None and (sampler == "ipdpp" or (sampler == "feature_kdpp" and beta)):
        raise ConfigError(f"sampler {sampler} needs probability or log_probability")
    known = _information(members, total, probability, log_probability, scale)
    rows = _feature_rows(features, total, known, members, beta, epsilon) if sampler == "feature_kdpp" else None
    official = _official(members, sizes) if sampler == "uniform_official" else {}

    chosen, inclusion = [np.empty(0, dtype=np.int64)], np.ones(total)
    for label, items in members.items():
        size = sizes[label]
        if size >= len(items):
            chosen.append(items)
            continue
        stream = generator("dpp", int(seed), int(round), label if isinstance(label, int) else str(label))
        if sampler == "ipdpp" or rows is not None:
            process = _process(label, size, known.get(label), None if rows is None else rows[items], ridge)
            positions, inclusion[items] = process.sample(stream), process.inclusion_probability()
        else:
            positions = official[label] if official else uniform(len(items), size, stream)
            inclusion[items] = size / len(items)
        chosen.append(items[positions])
    available = {label: len(members[label]) if label in members else 0 for label in sizes}
    kept = {label: min(sizes[label], count) for label, count in available.items()}
    return Selection(np.sort(np.concatenate(chosen)), inclusion, available, kept)


def _members(y: ArrayLike) -> dict[Label, np.ndarray]:
    """Label -> ascending positions of its items, labels ascending."""
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise DataError(f"y must have the shape (N,), got {labels.shape}")
    names, position = np.unique(labels, return_inverse=True)
    order = np.argsort(position, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(position, minlength=len(names)))[:-1])
    return dict(zip(names.tolist(), parts, strict=True)) if len(names) else {}


def _sizes(k: Size, counts: dict[Label, int]) -> dict[Label, int]:
    """Label -> how many of its items to draw at most, also for labels without items that ``k`` names."""
    sizes: dict[Label, int]
    if isinstance(k, str):
        factor = re.fullmatch(r"(\d+) ?\* ?n_min", k)
        if not factor:
            raise ConfigError(f'k must be integers or a multiple of the smallest class like "10*n_min", got {k!r}')
        sizes = dict.fromkeys(counts, int(factor[1]) * min(counts.values(), default=0))
    elif isinstance(k, Mapping):
        sizes = {**counts, **k}
    elif isinstance(k, list | tuple | np.ndarray):
        sizes = dict(enumerate(k))
        if missing := counts.keys() - sizes.keys():
            raise ConfigError(f"k has an integer for the classes 0..{len(k) - 1}, but y has class {min(missing)}")
    else:
        sizes = dict.fromkeys(counts, k)
    for label, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 0:
            raise ConfigError(f"k must be an integer of at least 0, got {size!r} for class {label}")
        if label not in counts:
            warnings.warn(f"class {label} has no items", stacklevel=3)
    return {label: int(size) for label, size in sizes.items()}


def _information(
    members: dict[Label, np.ndarray],
    total: int,
    probability: ArrayLike | None,
    log_probability: ArrayLike | None,
    scale: str,
) -> dict[Label, Information]:
    if probability is not None and log_probability is not None:
        raise ConfigError("give probability or log_probability, not both")
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
    known: dict[Label, Information],
    members: dict[Label, np.ndarray],
    beta: float,
    epsilon: float,
) -> np.ndarray:
    """(N, D): the unit vector of each item times its quality g; zero rows stay zero."""
    if features is None:
        raise ConfigError("sampler feature_kdpp needs features")
    if not np.isfinite(beta):
        raise ConfigError(f"beta must be finite, got {beta!r}")
    if not (np.isfinite(epsilon) and epsilon > 0):
        raise ConfigError(f"epsilon must be finite and greater than 0, got {epsilon!r}")
    rows = as_features(features)
    if len(rows) != total:
        raise DataError(f"features must have a row for each of the {total} labels, got {len(rows)}")
    length = np.linalg.norm(rows, axis=1)
    factor = np.divide(1.0, length, out=np.zeros(total), where=length > 0)
    if beta:
        for label, items in members.items():
            factor[items] *= (epsilon + known[label].content) ** (beta / 2)
    return rows * factor[:, None].astype(rows.dtype)


def _process(
    label: Label, size: int, known: Information | None, rows: np.ndarray | None, ridge: float
) -> RankOneKDPP | LowRankKDPP:
    """The k-DPP of one class: of the given feature rows, else of what is known of its items."""
    if rows is None:
        assert known is not None
        return RankOneKDPP(known.d, known.r, size)
    try:
        return LowRankKDPP(rows, size, ridge)
    except ConfigError as error:
        raise ConfigError(f"class {label}: {error}") from error


def _official(members: dict[Label, np.ndarray], sizes: dict[Label, int]) -> dict[Label, np.ndarray]:
    if len(set(sizes.values())) > 1:
        raise ConfigError("sampler uniform_official takes one k for all classes, as the released code")
    drawn = uniform_official([len(items) for items in members.values()], max(sizes.values(), default=1))
    return dict(zip(members, drawn, strict=True))
