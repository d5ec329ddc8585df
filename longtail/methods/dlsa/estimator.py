"""DLSA as a scikit-learn estimator."""

import logging
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch

from longtail.core.errors import ConfigError, DataError
from longtail.core.head import StandardizedHead
from longtail.core.params import keys_of
from longtail.methods.dlsa.chain import Chain, Routing, fit_chain
from longtail.methods.dlsa.flow_training import Rows
from longtail.methods.dlsa.settings import Settings, resolve
from longtail.methods.dlsa.start import Starts, base_head
from longtail.methods.heads.base import (
    HeadClassifier,
    LikelihoodMixin,
    as_linear_head,
    draw_seed,
)
from longtail.methods.heads.held_out import fifth_of_each_class
from longtail.train.checkpointing import CheckpointStore
from longtail.train.device import to_device, torch_device

LOG = logging.getLogger(__name__)


class DLSA(LikelihoodMixin, HeadClassifier):
    """Label-space adjustment by flow filters (Xu et al., ECCV 2022).

    A flow with a Gaussian-mixture base finds the rows that are easy to place (dense). A classifier that sees the class
    shares of the row's cluster decides these rows. The others go on to the next filter, and at last to a regular
    classifier. Everything runs in the dtype of X.

    Args:
        preset: ``small`` (settings by the size of the data), ``latent`` (without routing), or a published configuration
            (see ``PRESETS``).
        depth ... select_on: the fields of ``Settings``; ``auto`` leaves them to the preset.
        head: the head for warm starts: a LinearHead, a (weight (C, d), bias (C,)) pair, or None for one that is fitted
            on the rows. With ``start: auto``, a head that is given is the start.
        device: a torch device.
        progress: ``off``, ``lines``, ``bar`` or ``auto``.
        random_state: seed.

    Attributes:
        chain_: filters, thresholds, priors and classifiers.
        starts_: the heads of warm starts.
        settings_: the resolved settings.
        depth_: number of levels that could be trained.
        selected_on_: the rows that chose epochs of flows or heads: ``val``, ``train_slice`` or ``test``; ``last`` if
            none did.
    """

    chain_: Chain
    settings_: Settings
    starts_: Starts

    def __init__(
        self,
        preset: str = "small",
        depth: int | str = "auto",
        proportion: float | str = "auto",
        routing: str = "auto",
        standardize: bool | str = "auto",
        flow_dims: int | str = "auto",
        flow_epochs: int | str = "auto",
        flow_batch_size: int | str = "auto",
        flow_lr: float | str = "auto",
        blocks: int | str = "auto",
        hidden_layers: int | str = "auto",
        log_scale_limit: float | str = "auto",
        clusters: int | str = "auto",
        center_std: float | str = "auto",
        q: float | str = "auto",
        likelihood_weight: float | str = "auto",
        balance_weight: float | str = "auto",
        purity_weight: float | str = "auto",
        balance_momentum: float | str = "auto",
        flow_select: str = "auto",
        patience: int | str = "auto",
        heads: str = "auto",
        classifier: str = "auto",
        loss: str = "auto",
        sampler: str = "auto",
        loss_counts: str = "auto",
        cluster_prior: str = "auto",
        z: str = "auto",
        warm_start: bool | str = "auto",
        start: str = "auto",
        second_branch: str = "auto",
        epochs: int | str = "auto",
        batch_size: int | str = "auto",
        lr: float | str = "auto",
        eval_every: int | str = "auto",
        select_on: str = "auto",
        head: Any = None,
        device: str = "cpu",
        progress: str = "off",
        random_state: Any = 0,
    ) -> None:
        self.preset = preset
        self.depth = depth
        self.proportion = proportion
        self.routing = routing
        self.standardize = standardize
        self.flow_dims = flow_dims
        self.flow_epochs = flow_epochs
        self.flow_batch_size = flow_batch_size
        self.flow_lr = flow_lr
        self.blocks = blocks
        self.hidden_layers = hidden_layers
        self.log_scale_limit = log_scale_limit
        self.clusters = clusters
        self.center_std = center_std
        self.q = q
        self.likelihood_weight = likelihood_weight
        self.balance_weight = balance_weight
        self.purity_weight = purity_weight
        self.balance_momentum = balance_momentum
        self.flow_select = flow_select
        self.patience = patience
        self.heads = heads
        self.classifier = classifier
        self.loss = loss
        self.sampler = sampler
        self.loss_counts = loss_counts
        self.cluster_prior = cluster_prior
        self.z = z
        self.warm_start = warm_start
        self.start = start
        self.second_branch = second_branch
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.eval_every = eval_every
        self.select_on = select_on
        self.head = head
        self.device = device
        self.progress = progress
        self.random_state = random_state

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        X_val: np.ndarray | None = None,
        y_val: np.ndarray | None = None,
        X_test: np.ndarray | None = None,
        y_test: np.ndarray | None = None,
        *,
        store: CheckpointStore | None = None,
        starts: Starts | None = None,
        name: str = "dlsa",
    ) -> Self:
        """X (N, d) features, y (N,) labels.

        X_val, y_val choose the flows' epochs and the heads'. Without them a fifth of each class's rows, at least one,
        stands in where every class has two. It is held out of the flows' training. The heads' epochs are chosen by
        training without it, and then the heads are trained on all rows for as many epochs. A head that is given may
        have seen these rows, so then the heads' last epoch is kept. X_test, y_test are followed in the flows' histories
        and choose only with ``select_on="test"``. store: where to keep checkpoints of unfinished work. starts:
        ``starts_`` of another DLSA with the same start and random_state, fitted on the same rows, to save time.
        Raises TrainingError where a loss or likelihood stops being finite.
        """
        X, y = self._check_training(X, y)
        seed = draw_seed(self.random_state)
        val = self._check_validation(X_val, y_val)
        test = self._check_validation(X_test, y_test, "test")
        settings = self._resolve(X)
        if settings.select_on == "test" and test is None:
            raise ConfigError("dlsa.select_on must be val or last without X_test and y_test, got test")
        if settings.depth and X.shape[1] < 2:
            raise DataError(f"n_features = {X.shape[1]}: an autoregressive flow needs at least 2 features")
        device = torch_device(self.device, "dlsa")
        if settings.select_on == "val" and val is None and self.head is not None:
            LOG.info(f"{name}: no val rows, and the given head may have seen all others; the last epoch is kept")
            settings = replace(settings, select_on="last")
        flow_chooses = settings.depth > 0 and settings.flow_select == "held_out"
        self.selected_on_ = "val" if settings.select_on == "val" or flow_chooses else "last"
        held_out = None
        if self.selected_on_ == "val" and val is None:
            held_out = _held_out_rows(y, seed)
            self.selected_on_ = "last" if held_out is None else "train_slice"
        if settings.select_on == "test":
            self.selected_on_ = "test"
        fold = None if held_out is None or settings.select_on != "val" else (X[~held_out], y[~held_out])
        self.starts_ = starts or self._fit_starts((X, y), fold, val, settings, seed)
        parts = {"train": _rows((X, y), X.dtype, device)}
        parts |= {
            name: _rows(part, X.dtype, device) for name, part in (("val", val), ("test", test)) if part is not None
        }
        self.settings_ = settings
        self.chain_ = fit_chain(
            parts, self.starts_, settings, seed, store or CheckpointStore(), self.progress, name, held_out
        )
        self.depth_ = self.chain_.depth
        return self

    def _resolve(self, X: np.ndarray) -> Settings:
        """The settings for training rows X (N, d)."""
        given = {name: getattr(self, name) for name in keys_of(Settings)}
        if self.head is not None:
            if self.start == "base":
                raise ConfigError("dlsa.start must be given or auto where a head is given, got base")
            given["start"] = "given"
        unit_input = self.head is not None and as_linear_head(self.head).unit_input
        mean_square = 1.0 if unit_input else float(np.einsum("ij,ij->i", X, X, dtype=np.float64).mean())
        return resolve(self.preset, given, len(X), X.shape[1], len(self.classes_), mean_square, unit_input)

    def _fit_starts(
        self,
        all_rows: tuple[np.ndarray, np.ndarray],
        fold: tuple[np.ndarray, np.ndarray] | None,
        val: tuple[np.ndarray, np.ndarray] | None,
        settings: Settings,
        seed: int,
    ) -> Starts:
        """The heads of warm starts. fold: the rows left where others are held out."""
        balanced = settings.start == "base" or settings.loss == "bsm"  # this loss adds the prior itself
        if self.head is not None:
            given = self._starting_head(self.head, *all_rows)
            if isinstance(given, StandardizedHead) and balanced:
                given = given.with_prior("uniform", np.bincount(all_rows[1]) / len(all_rows[1]))
            return Starts(given)
        if not settings.warm_start:
            return Starts()
        prior = "uniform" if balanced else "train"
        whole = base_head(*all_rows, val, prior=prior, device=self.device, seed=seed)
        if fold is None:
            return Starts(whole)
        return Starts(whole, base_head(*fold, prior=prior, l2=whole.l2 or "auto", device=self.device, seed=seed))

    def trace(self, X: np.ndarray) -> Routing:
        """Route, log-likelihoods and clusters of rows X (N, d)."""
        return self.chain_.routing(self._tensor(self._check_rows(X)))

    def route(self, X: np.ndarray) -> np.ndarray:
        """(N,) int64: 1..L for the filter whose classifier decides the row, L+1 for the regular classifier."""
        return self.trace(X).route

    def log_likelihood(self, X: np.ndarray) -> np.ndarray:
        """(N, L) log-likelihoods, in nats, under the flow of each level."""
        return self.trace(X).log_density

    def _block_scores(self, X: np.ndarray) -> np.ndarray:
        return self.chain_.scores(self._tensor(X))

    def _tensor(self, X: np.ndarray) -> torch.Tensor:
        weight = self.chain_.heads[1].head.first.weight
        return to_device(X, weight.device).to(weight.dtype)


def _held_out_rows(y: np.ndarray, seed: int) -> np.ndarray | None:
    """(N,) bool: a fifth of each class's rows, at least one; None where some class has a single row."""
    return fifth_of_each_class(y, seed, "held out", at_least=1) if np.bincount(y).min() > 1 else None


def _rows(part: tuple[np.ndarray, np.ndarray], dtype: np.dtype, device: torch.device) -> Rows:
    X, y = part
    return Rows(to_device(X.astype(dtype, copy=False), device), to_device(y, device))
