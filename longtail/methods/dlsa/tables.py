"""Tables and numbers about DLSA's flows: likelihood and losses over epochs, clusters, routes.

Conventions are those of ``plot_tables``; shares and accuracies are in percent. Groups are those of the training counts.

Shape legend: N rows, L levels, E epochs, C classes, K clusters.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import normalized_mutual_info_score

from longtail.artifacts.predictions import Predictions
from longtail.evaluation.metrics import GROUPS, group_of, percent
from longtail.evaluation.plot_tables import SPLITS
from longtail.evaluation.shots import Shots
from longtail.methods.dlsa.routing_file import RoutingFile, read_routing

LOSSES = ("likelihood", "purity", "balance")
COLUMNS = {
    "dlsa_likelihood": ["level", "part", "group", "epoch", "log_likelihood"],
    "dlsa_losses": ["level", "loss", "epoch", "value"],
    "dlsa_clusters": ["level", "cluster", "measure", "value"],
    "dlsa_routes": ["part", "route", "group", "share"],
    "dlsa_route_accuracy": ["route", "group", "images", "accuracy"],
}


def read(path: Path, made_by: str) -> RoutingFile:
    """The routes and histories of the flows, verified."""
    return read_routing(path, made_by)


def matches(routing: RoutingFile, table: Predictions) -> bool:
    """Whether the routed test rows are those of the predictions."""
    test = routing.parts["test"]
    pairs = ((test.index, table.index), (test.label, table.label), (routing.train_counts, table.train_counts))
    return all(np.array_equal(routed, predicted) for routed, predicted in pairs)


def plot_tables(
    routing: RoutingFile | None, table: Predictions | None, names: Sequence[str], shots: Shots
) -> dict[str, pd.DataFrame]:
    """The tables by the name of their plot; without rows where DLSA was not run."""
    if routing is None or table is None:
        return {name: pd.DataFrame(columns=columns) for name, columns in COLUMNS.items()}
    return {
        "dlsa_likelihood": likelihood_curves(routing, shots),
        "dlsa_losses": flow_losses(routing),
        "dlsa_clusters": clusters(routing),
        "dlsa_routes": route_shares(routing, shots),
        "dlsa_route_accuracy": route_accuracy(routing, table, shots),
    }


def likelihood_curves(routing: RoutingFile, shots: Shots) -> pd.DataFrame:
    """``level, part, group, epoch, log_likelihood``: mean over a group's classes of their mean log-likelihood, nats."""
    groups = group_of(routing.train_counts, shots)
    rows = []
    for level in range(1, routing.depth + 1):
        epochs = routing.histories[f"flow/{level}/epoch"].astype(np.int64)
        for part in SPLITS:
            means = routing.histories.get(f"flow/{level}/log_likelihood/{part}")
            if means is None:
                continue
            for group in GROUPS:
                member = (groups == group) & np.isfinite(means).all(axis=0)
                if member.any():
                    values = means[:, member].mean(axis=1)
                    rows += [(level, part, group, e, _short(v)) for e, v in zip(epochs, values, strict=True)]
    return pd.DataFrame(rows, columns=COLUMNS["dlsa_likelihood"])


def flow_losses(routing: RoutingFile) -> pd.DataFrame:
    """``level, loss, epoch, value`` of the three losses, unweighted."""
    rows = [
        (level, loss, int(epoch), _short(value))
        for level in range(1, routing.depth + 1)
        for loss in LOSSES
        for epoch, value in zip(
            routing.histories[f"flow/{level}/epoch"], routing.histories[f"flow/{level}/{loss}"], strict=True
        )
    ]
    return pd.DataFrame(rows, columns=COLUMNS["dlsa_losses"])


def clusters(routing: RoutingFile) -> pd.DataFrame:
    """``level, cluster, measure, value``: ``size`` (training rows) and ``purity`` (percent of the most frequent class)
    of each cluster that holds training rows."""
    train = routing.parts["train"]
    rows = []
    for level in range(1, routing.depth + 1):
        size, purity = _size_and_purity(train.cluster[:, level - 1], train.label, routing.num_clusters)
        used = np.flatnonzero(size)
        rows += [(level, int(k), "size", float(size[k])) for k in used]
        rows += [(level, int(k), "purity", percent(purity[k])) for k in used]
    return pd.DataFrame(rows, columns=COLUMNS["dlsa_clusters"])


def route_shares(routing: RoutingFile, shots: Shots) -> pd.DataFrame:
    """``part, route, group, share``: percent of a group's rows that take each route."""
    groups = group_of(routing.train_counts, shots)
    rows = []
    for part in SPLITS:
        if part in routing.parts:
            found = routing.parts[part]
            of_row = groups[found.label]
            for group in GROUPS:
                taken = found.route[of_row == group]
                if len(taken):
                    rows += [
                        (part, route, group, percent((taken == route).mean())) for route in range(1, routing.depth + 2)
                    ]
    return pd.DataFrame(rows, columns=COLUMNS["dlsa_routes"])


def route_accuracy(routing: RoutingFile, table: Predictions, shots: Shots) -> pd.DataFrame:
    """``route, group, images, accuracy``: percent of a group's test images on a route that are predicted correctly.

    Images count alike, since a route may hold few of a class; so these do not average to a group's accuracy.
    """
    groups = group_of(routing.train_counts, shots)[table.label]
    route = routing.parts["test"].route
    rows = []
    for number in range(1, routing.depth + 2):
        for group in GROUPS:
            member = (route == number) & (groups == group)
            if member.any():
                rows.append((number, group, int(member.sum()), percent(table.correct[member].mean())))
    return pd.DataFrame(rows, columns=COLUMNS["dlsa_route_accuracy"])


def diagnostics(routing: RoutingFile, table: Predictions, shots: Shots) -> dict[str, dict[str, float | int]]:
    """Numbers of each level and route.

    ``level_L``: threshold (nats), cluster_entropy (of the training rows, over log K), mean_purity and max_purity
    (percent), nmi (of cluster and class, test rows). ``route_R``: train_share, test_share, accuracy (percent; left out
    for a route without test rows). ``routing``: largest difference between a group's train and val share of a route.
    """
    train, test = routing.parts["train"], routing.parts["test"]
    found: dict[str, dict[str, float | int]] = {}
    for level in range(1, routing.depth + 1):
        size, purity = _size_and_purity(train.cluster[:, level - 1], train.label, routing.num_clusters)
        used, share = size > 0, size[size > 0] / size.sum()
        entropy = -(share * np.log(share)).sum() / np.log(max(2, routing.num_clusters)) + 0.0
        numbers: dict[str, float | int] = {
            "cluster_entropy": round(float(entropy), 4),
            "mean_purity": percent((purity * size)[used].sum() / size.sum()),
            "max_purity": percent(purity[used].max()),
            "nmi": round(float(normalized_mutual_info_score(test.label, test.cluster[:, level - 1])), 4),
        }
        if np.isfinite(routing.thresholds[level - 1]):
            numbers["threshold"] = _short(routing.thresholds[level - 1])
        found[f"level_{level}"] = numbers
    for route in range(1, routing.depth + 2):
        here = test.route == route
        numbers = {"train_share": percent((train.route == route).mean()), "test_share": percent(here.mean())}
        found[f"route_{route}"] = numbers | ({"accuracy": percent(table.correct[here].mean())} if here.any() else {})
    if "val" in routing.parts:
        shares = route_shares(routing, shots).pivot_table(index=["route", "group"], columns="part", values="share")
        found["routing"] = {"largest_share_gap": round(float((shares["train"] - shares["val"]).abs().max()), 2)}
    return found


def _size_and_purity(cluster: np.ndarray, label: np.ndarray, num_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """(K,) rows of each cluster, and (K,) share of its most frequent class, 0 for an empty one."""
    num_classes = int(label.max()) + 1
    counts = np.bincount(cluster * num_classes + label, minlength=num_clusters * num_classes)
    table = counts.reshape(num_clusters, num_classes)
    size = table.sum(axis=1)
    return size, table.max(axis=1) / np.maximum(size, 1)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
