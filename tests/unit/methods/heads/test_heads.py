import logging
import warnings

import numpy as np
import pytest
import torch
from sklearn.preprocessing import normalize

from longtail.core.errors import ConfigError, DataError, TrainingError
from longtail.core.seeds import derive_seed
from longtail.data.samplers import create_sampler
from longtail.methods.heads import CRT, LWS, NCM, Joint, LinearHead, LogitAdjustment, TauNorm
from longtail.methods.heads.base import fit_linear_head
from longtail.methods.heads.crt import initial_head
from longtail.methods.heads.gradient.sgd import ScaleScorer, train
from longtail.methods.heads.tau import class_accuracy_over_grid, tau_normalised

# ---------------------------------------------------------------------------------------------------------- tau-norm

W = np.array([[3.0, 4.0], [0.0, 2.0], [1.2, -0.5]])
B = np.array([0.5, 0.0, -1.0])
X = np.array([[0.2, 1.0], [1.0, 0.1], [0.1, 0.35], [1.0, -1.0]])
Y = np.array([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("tau", "row_1", "row_2", "labels"),
    [
        (0.0, [4.6, 2.0, -0.26], [3.4, 0.2, 1.15], [0, 0, 0, 2]),
        (0.5, [2.0572, 1.4142, -0.2280], [1.5205, 0.1414, 1.0086], [0, 0, 0, 2]),
        (1.0, [0.92, 1.0, -0.2], [0.68, 0.1, 0.8846], [1, 2, 1, 2]),
        (2.0, [0.184, 0.5, -0.1538], [0.136, 0.05, 0.6805], [1, 2, 1, 2]),
    ],
)
def test_tau_norm_has_the_worked_values(tau, row_1, row_2, labels):
    fitted = TauNorm(tau, head=(W, B)).fit(X, Y)
    np.testing.assert_allclose(fitted.scores(X)[:2], [row_1, row_2], atol=5e-5)
    assert fitted.predict(X).tolist() == labels
    assert (fitted.tau_, fitted.selected_on_, fitted.bias_) == (tau, "fixed", None)


def test_joint_has_the_worked_values_and_tau_zero_is_not_joint():
    joint = Joint(head=(W, B)).fit(X, Y)
    np.testing.assert_allclose(joint.scores(X)[:2], [[5.1, 2.0, -1.26], [3.9, 0.2, 0.15]])
    assert joint.predict(X).tolist() == [0, 0, 0, 2]
    assert not np.allclose(TauNorm(0.0, head=(W, B)).fit(X, Y).scores(X), joint.scores(X))


def test_tau_zero_leaves_the_weight_bit_for_bit():
    weight = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    assert TauNorm(0.0, head=(weight, None)).fit(X, Y).weight_.tobytes() == weight.tobytes()


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0, 1.7])
def test_tau_norm_row_norms_are_powers_of_the_old_ones(tau):
    norms = np.linalg.norm(tau_normalised(LinearHead(W), tau), axis=1)
    np.testing.assert_allclose(norms, np.array([5.0, 2.0, 1.3]) ** (1 - tau))


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0, 1.7])
def test_tau_norm_ignores_a_common_factor_of_the_weight(tau):
    rows = np.random.default_rng(0).normal(size=(200, 2))
    one, many = (TauNorm(tau, head=(factor * W, B)).fit(X, Y).predict(rows) for factor in (1.0, 37.0))
    np.testing.assert_array_equal(one, many)


def test_tau_one_ignores_the_scale_of_one_row_and_ranks_like_the_cosine():
    rows = np.random.default_rng(0).normal(size=(50, 2))
    plain = TauNorm(1.0, head=(W, B)).fit(X, Y)
    scaled = TauNorm(1.0, head=(W * [[1.0], [9.0], [1.0]], B)).fit(X, Y)
    np.testing.assert_allclose(scaled.scores(rows), plain.scores(rows))
    cosine = normalize(rows) @ normalize(W).T
    np.testing.assert_array_equal(plain.scores(rows).argsort(axis=1), cosine.argsort(axis=1))


def test_tau_norm_leaves_zero_rows_and_warns():
    weight = W * [[1.0], [0.0], [1.0]]
    with pytest.warns(UserWarning, match=r"zero rows.*classes \[1\]"):
        fitted = TauNorm(1.0, head=(weight, None)).fit(X, Y)
    assert np.isfinite(fitted.scores(X)).all()
    np.testing.assert_array_equal(fitted.weight_[1], 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(TauNorm(0.0, head=(weight, None)).fit(X, Y).weight_, weight)


def test_tau_selection_is_the_smallest_of_the_best_macro_accuracy_on_val():
    fitted = TauNorm(head=(W, B)).fit(X, Y, X, [1, 2, 1, 2])
    assert fitted.tau_grid_.tolist() == [round(0.1 * i, 1) for i in range(21)]
    right = [np.mean(TauNorm(t, head=(W, B)).fit(X, Y).predict(X) == [1, 2, 1, 2]) for t in fitted.tau_grid_]
    assert fitted.tau_ == fitted.tau_grid_[int(np.argmax(right))] == 1.0
    assert fitted.selected_on_ == "val"
    np.testing.assert_allclose(fitted.weight_, tau_normalised(LinearHead(W), 1.0))


def test_tau_curve_is_that_of_one_product_per_tau():
    stream = np.random.default_rng(0)
    head = LinearHead(stream.normal(size=(6, 5)) * np.linspace(0.2, 3, 6)[:, None])
    rows, y = stream.normal(size=(300, 5)), stream.integers(0, 6, 300)
    grid = np.arange(21) / 10
    curve = class_accuracy_over_grid(head, rows, y, grid)
    for t, tau in enumerate(grid):
        correct = (rows @ tau_normalised(head, tau).T).argmax(axis=1) == y
        np.testing.assert_allclose(curve[t], [correct[y == c].mean() for c in range(6)])


def test_tau_macro_counts_only_the_classes_in_val():
    fitted = TauNorm(head=(W, B)).fit(X, Y, X[:3], [1, 2, 1])
    assert np.isnan(fitted.class_accuracy_[:, 0]).all()
    np.testing.assert_allclose(fitted.macro_, fitted.class_accuracy_[:, 1:].mean(axis=1))
    assert fitted.macro_.max() == 1.0


def test_tau_is_chosen_by_macro_and_not_by_overall_accuracy():
    head = LinearHead(np.array([[4.0, 0.0], [0.4, 1.0]]))
    rows = np.array([[1.0, 0.5]] * 9 + [[0.5, 1.2]])  # class 1 needs a large tau, class 0 many times a small one
    y = np.array([0] * 9 + [1])
    fitted = TauNorm(head=head).fit(rows, y, rows, y)
    assert fitted.macro_[fitted.tau_grid_.tolist().index(fitted.tau_)] == 1.0
    assert fitted.macro_[0] == 0.5


def long_tail(seed):
    """Ten Gaussian classes in 16 dimensions, 400 to 5 training rows, 200 test rows each."""
    stream = np.random.default_rng(seed)
    counts = np.round(400 * (1 / 80) ** (np.arange(10) / 9)).astype(int)
    centres = 3.0 * np.linalg.qr(stream.normal(size=(16, 16)))[0][:10]
    y, y_test = np.repeat(np.arange(10), counts), np.repeat(np.arange(10), 200)
    rows, rows_test = (centres[k] + stream.normal(size=(len(k), 16)) for k in (y, y_test))
    return rows, y, rows_test, y_test, counts


def test_tau_without_val_never_scores_a_fitted_row(monkeypatch):
    rows, y, *_, counts = long_tail(0)
    seen = {}

    def spy_fit(X, y, num_classes, original=fit_linear_head):
        seen["fitted"] = (X, y)
        return original(X, y, num_classes)

    def spy_score(head, X, y, grid):
        seen["scored"] = (X, y)
        return class_accuracy_over_grid(head, X, y, grid)

    monkeypatch.setattr("longtail.methods.heads.tau.fit_linear_head", spy_fit)
    monkeypatch.setattr("longtail.methods.heads.tau.class_accuracy_over_grid", spy_score)
    given = np.random.default_rng(1).normal(size=(10, 16))
    fitted = TauNorm(head=(given, None)).fit(rows, y)
    assert fitted.selected_on_ == "train_slice"
    np.testing.assert_array_equal(np.bincount(seen["scored"][1], minlength=10), counts // 5)
    np.testing.assert_array_equal(np.bincount(seen["fitted"][1], minlength=10), counts - counts // 5)
    assert not {row.tobytes() for row in seen["scored"][0]} & {row.tobytes() for row in seen["fitted"][0]}
    np.testing.assert_array_equal(fitted.weight_, tau_normalised(LinearHead(given), fitted.tau_))


def test_tau_slice_follows_the_seed():
    rows, y, *_ = long_tail(0)
    curves = [TauNorm(random_state=seed).fit(rows, y).class_accuracy_ for seed in (0, 0, 1)]
    np.testing.assert_array_equal(curves[0], curves[1])
    assert not np.array_equal(curves[0], curves[2])


def test_tau_is_one_where_nothing_can_be_held_out():
    fitted = TauNorm(head=(W, B)).fit(X, Y)
    assert (fitted.tau_, fitted.selected_on_, fitted.tau_grid_.tolist()) == (1.0, "fixed", [1.0])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"tau": "best"}, "tau must be 'auto' or a finite number >= 0, got 'best'"),
        ({"tau": -0.1}, "got -0.1"),
        ({"grid_step": 0.0}, "grid_step > 0"),
    ],
)
def test_tau_values_out_of_range_are_refused(arguments, reason):
    with pytest.raises(ConfigError, match=reason):
        TauNorm(**arguments).fit(X, Y)


def test_val_rows_must_come_with_known_labels():
    with pytest.raises(ConfigError, match="must be given together"):
        TauNorm(head=(W, B)).fit(X, Y, X)
    with pytest.raises(DataError, match="classes that y does not: 7"):
        TauNorm(head=(W, B)).fit(X, Y, X, [0, 1, 7, 2])


# --------------------------------------------------------------------------------------------------------------- NCM

F = np.array([[4.0, 0.0], [3.0, 1.0], [5.0, 1.0], [0.0, 2.0], [1.0, 1.0]])
F_LABELS = np.array([0, 0, 0, 1, 2])
QUERIES = np.array([[1.0, 0.45], [0.2, 0.5], [3.0, 1.2]])


@pytest.mark.parametrize(
    ("feature", "centroids", "l2_q1", "l2_labels", "cos_q1", "cos_labels", "true_cosine_labels"),
    [
        (
            "un",
            [[4, 0.6667], [0, 2], [1, 1]],
            [-9.0469, -3.4025, -0.3025],
            [2, 2, 0],
            [2.15, 0.45, 0.725],
            [0, 0, 0],
            [0, 1, 0],
        ),
        (
            "l2n",
            [[0.976421, 0.170781], [0, 1], [0.707107, 0.707107]],
            [-0.0616, -1.1793, -0.1300],
            [0, 1, 0],
            [0.4803, 0.2052, 0.4675],
            [0, 1, 0],
            [0, 1, 0],
        ),
        (
            "cl2n",
            [[0.937911, -0.193746], [-0.933346, 0.358979], [-1, 0]],
            [-3.5652, -0.4681, -0.1086],
            [2, 2, 0],
            [-0.4120, 0.3830, 0.4728],
            [2, 2, 0],
            [2, 2, 0],
        ),
    ],
)
def test_ncm_has_the_worked_values(feature, centroids, l2_q1, l2_labels, cos_q1, cos_labels, true_cosine_labels):
    l2, cos, true_cosine = (NCM(feature, distance).fit(F, F_LABELS) for distance in ("l2", "cos", "true_cosine"))
    np.testing.assert_allclose(l2.mean_, [2.6, 1.0])
    np.testing.assert_allclose(l2.centroids_, centroids, atol=5e-5)
    np.testing.assert_allclose(l2.scores(QUERIES)[0], l2_q1, atol=6e-5)
    np.testing.assert_allclose(cos.scores(QUERIES)[0], cos_q1, atol=6e-5)
    assert l2.predict(QUERIES).tolist() == l2_labels
    assert cos.predict(QUERIES).tolist() == cos_labels
    assert true_cosine.predict(QUERIES).tolist() == true_cosine_labels


def test_ncm_mean_is_over_images_and_centroids_are_not_normalised_again():
    assert not np.allclose(NCM().fit(F, F_LABELS).mean_, [1.6667, 1.2222], atol=1e-2)
    norms = [np.linalg.norm(NCM(feature).fit(F, F_LABELS).centroids_[0]) for feature in ("un", "l2n", "cl2n")]
    np.testing.assert_allclose(norms, [4.0552, 0.9912, 0.9577], atol=5e-5)


@pytest.fixture
def cloud():
    stream = np.random.default_rng(0)
    return stream.normal(size=(90, 6)), stream.integers(0, 5, 90), stream.normal(size=(40, 6))


def test_ncm_default_is_centred_and_squared_distance(cloud):
    rows, y, queries = cloud
    np.testing.assert_array_equal(NCM().fit(rows, y).scores(queries), NCM("cl2n", "l2").fit(rows, y).scores(queries))


@pytest.mark.parametrize("feature", ["un", "cl2n"])
def test_ncm_distance_is_shift_invariant(cloud, feature):
    rows, y, queries = cloud
    shift = np.linspace(-5, 50, 6)
    plain, shifted = NCM(feature).fit(rows, y), NCM(feature).fit(rows + shift, y)
    np.testing.assert_allclose(shifted.scores(queries + shift), plain.scores(queries), atol=1e-10)


def test_ncm_l2n_is_invariant_to_the_scale_of_each_row(cloud):
    rows, y, queries = cloud
    scale, query_scale = np.random.default_rng(1).uniform(0.1, 9, (90, 1)), np.linspace(0.2, 7, 40)[:, None]
    plain, scaled = NCM("l2n").fit(rows, y), NCM("l2n").fit(rows * scale, y)
    np.testing.assert_allclose(scaled.scores(queries * query_scale), plain.scores(queries), atol=1e-12)


def test_ncm_cl2n_is_invariant_to_a_global_scale(cloud):
    rows, y, queries = cloud
    np.testing.assert_allclose(
        NCM().fit(7 * rows, y).scores(7 * queries), NCM().fit(rows, y).scores(queries), atol=1e-12
    )


@pytest.mark.parametrize("feature", ["un", "l2n", "cl2n"])
@pytest.mark.parametrize("distance", ["l2", "cos", "true_cosine"])
def test_ncm_survives_zero_rows(feature, distance):
    rows = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    fitted = NCM(feature, distance).fit(rows, [0, 1, 2, 0])
    assert np.isfinite(fitted.scores(np.vstack([rows, rows.mean(axis=0)]))).all()


@pytest.mark.parametrize("feature", ["un", "l2n", "cl2n"])
def test_ncm_distance_does_not_cancel_in_float32_features(feature):
    stream = np.random.default_rng(0)
    rows = (1000 + stream.normal(size=(60, 8))).astype(np.float32)
    y = np.repeat(np.arange(6), 10)
    fitted = NCM(feature).fit(rows, y)
    query = rows.astype(np.float64) - (fitted.mean_ if feature == "cl2n" else 0.0)
    query = query if feature == "un" else query / np.linalg.norm(query, axis=1, keepdims=True)
    direct = -((query[:, None] - fitted.centroids_) ** 2).sum(axis=2)
    np.testing.assert_allclose(fitted.scores(rows), direct, rtol=1e-5, atol=1e-5 * np.abs(direct).min())


def test_ncm_values_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="feature must be one of cl2n, l2n, un, got 'raw'"):
        NCM("raw").fit(F, F_LABELS)
    with pytest.raises(ConfigError, match="distance must be one of l2, cos, true_cosine, got 'euclid'"):
        NCM(distance="euclid").fit(F, F_LABELS)


# --------------------------------------------------------------------------------------------------------------- LWS


def lws_steps(steps):
    """(scales, losses) after full-batch steps on the worked logits at a constant rate."""
    scales = torch.ones(3, dtype=torch.float64)
    z = torch.tensor([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0]], dtype=torch.float64)
    scorer = ScaleScorer(scales, weight=torch.eye(3, dtype=torch.float64))
    _, history = train(
        scorer,
        z,
        torch.tensor([1, 0]),
        method="lws",
        epochs=steps,
        batch_size=2,
        lr=0.2,
        momentum=0.9,
        weight_decay=5e-4,
        draw=lambda epoch, count: np.arange(count),
        multiplier=lambda epoch, fraction: 1.0,
    )
    return scales.numpy(), history.loss


def test_lws_steps_have_the_worked_values():
    scales, losses = lws_steps(1)
    np.testing.assert_allclose(scales, [0.955121, 0.815383, 1.001488], atol=1e-6)
    np.testing.assert_allclose((1.0 - scales) / 0.2 - 5e-4, [0.223896, 0.922584, -0.007938], atol=1e-6)
    scales, losses = lws_steps(2)
    np.testing.assert_allclose(scales, [0.861827, 0.487909, 1.005258], atol=1e-6)
    np.testing.assert_allclose(losses, [1.775269, 1.604202], atol=1e-6)


@pytest.fixture
def tail():
    return long_tail(0)


def test_lws_leaves_its_head_bit_for_bit_and_folds_its_scales(tail):
    rows, y, rows_test, *_ = tail
    stream = np.random.default_rng(0)
    weight, bias = stream.normal(size=(10, 16)), stream.normal(size=10)
    before = weight.tobytes(), bias.tobytes()
    fitted = LWS(head=(weight, bias), batch_size=64).fit(rows, y)
    assert (fitted.linear_head_.weight.tobytes(), fitted.linear_head_.bias.tobytes()) == before
    assert not np.allclose(fitted.scales_, 1.0)
    np.testing.assert_allclose(
        fitted.scores(rows_test), fitted.scales_ * (rows_test @ weight.T + bias), rtol=1e-9, atol=1e-12
    )


def test_lws_starts_at_the_joint_head(tail):
    rows, y, rows_test, *_ = tail
    joint = Joint().fit(rows, y)
    untrained = LWS(head=joint.linear_head_, lr=0.0).fit(rows, y)
    np.testing.assert_array_equal(untrained.scales_, 1.0)
    assert untrained.scores(rows_test).tobytes() == joint.scores(rows_test).tobytes()


def test_lws_weight_decay_pulls_scales_toward_zero(tail):
    rows, y, *_ = tail
    plain, decayed = (LWS(batch_size=64, weight_decay=wd).fit(rows, y).scales_ for wd in (0.0, 0.5))
    assert np.abs(decayed).sum() < np.abs(plain).sum()
    assert decayed.max() < 1.0


def test_lws_gives_the_same_scales_when_logits_do_not_fit_in_memory(tail, monkeypatch):
    rows, y, rows_test, y_test, _ = tail
    kept = LWS(batch_size=64).fit(rows, y, rows_test, y_test)
    monkeypatch.setattr("longtail.methods.heads.lws.LOGITS_BUDGET", 0)
    recomputed = LWS(batch_size=64).fit(rows, y, rows_test, y_test)
    np.testing.assert_allclose(recomputed.scales_, kept.scales_, rtol=1e-9)
    np.testing.assert_allclose(recomputed.history_["val_accuracy"], kept.history_["val_accuracy"])


# -------------------------------------------------------------------------------------------- cRT, and the loop of both


def test_crt_starts_from_its_own_head_within_the_default_bound():
    head = initial_head(50, 64, 0, np.dtype(np.float32))
    assert head.weight.dtype == np.float32
    assert 0.12 < np.abs(head.weight).max() <= 0.125 and np.abs(head.bias).max() <= 0.125
    assert not np.array_equal(head.weight, initial_head(50, 64, 1, np.dtype(np.float32)).weight)


def test_crt_forgets_stage_one_and_moves_from_its_start(tail):
    rows, y, *_ = tail
    fitted, joint = CRT(batch_size=64).fit(rows, y), Joint().fit(rows, y)
    assert np.abs(fitted.linear_head_.weight).max() <= 0.25
    assert not np.allclose(fitted.linear_head_.weight, joint.weight_)
    assert not np.allclose(fitted.weight_, fitted.linear_head_.weight)
    unmoved = CRT(batch_size=64, lr=0.0).fit(rows, y)
    np.testing.assert_array_equal(unmoved.weight_, fitted.linear_head_.weight)


def reference_training(parameters, logits, method, y, epochs, batch_size, seed):
    """The official recipe by torch's own autograd and SGD."""
    optimizer = torch.optim.SGD(parameters, lr=0.2, momentum=0.9, weight_decay=5e-4)
    sampler = create_sampler("class_aware", y, seed=derive_seed(seed, method, "sampler"), epochs=epochs)
    steps = len(y) // batch_size
    losses = []
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 + np.cos(np.pi * (epoch + 1) / epochs))
        batches = sampler.epoch(epoch, steps * batch_size).reshape(steps, batch_size)
        losses.append(0.0)
        for batch in batches:
            loss = torch.nn.functional.cross_entropy(logits(batch), torch.from_numpy(y[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1] += loss.item() / steps
    return losses


def test_crt_is_torch_sgd_on_class_aware_draws(tail):
    rows, y, *_ = tail
    fitted = CRT(epochs=4, batch_size=100, random_state=3).fit(rows, y)
    weight, bias = (torch.tensor(a, requires_grad=True) for a in (fitted.linear_head_.weight, fitted.linear_head_.bias))
    features = torch.from_numpy(rows)
    losses = reference_training([weight, bias], lambda b: features[b] @ weight.T + bias, "crt", y, 4, 100, 3)
    np.testing.assert_allclose(fitted.weight_, weight.detach().numpy(), atol=1e-10)
    np.testing.assert_allclose(fitted.bias_, bias.detach().numpy(), atol=1e-10)
    np.testing.assert_allclose(fitted.history_["loss"], losses, atol=1e-10)


def test_lws_is_torch_sgd_on_class_aware_draws(tail):
    rows, y, *_ = tail
    fitted = LWS(epochs=4, batch_size=100, random_state=3).fit(rows, y)
    scales = torch.ones(10, dtype=torch.float64, requires_grad=True)
    z = torch.from_numpy(fitted.linear_head_.scores(rows))
    losses = reference_training([scales], lambda b: scales * z[b], "lws", y, 4, 100, 3)
    np.testing.assert_allclose(fitted.scales_, scales.detach().numpy(), atol=1e-10)
    np.testing.assert_allclose(fitted.history_["loss"], losses, atol=1e-10)


@pytest.mark.parametrize("kind", [CRT, LWS])
def test_history_has_one_entry_per_epoch_and_the_last_rate_is_zero(kind, tail):
    rows, y, rows_test, y_test, _ = tail
    plain = kind(epochs=5, batch_size=64).fit(rows, y)
    assert set(plain.history_) == {"epoch", "lr", "loss"}
    assert plain.history_["epoch"] == [1, 2, 3, 4, 5]
    assert plain.history_["lr"] == pytest.approx([0.180902, 0.130902, 0.069098, 0.019098, 0], abs=1e-6)
    assert plain.history_["lr"][-1] == 0.0
    assert plain.history_["loss"][-1] < plain.history_["loss"][0]
    with_val = kind(epochs=5, batch_size=64).fit(rows, y, rows_test, y_test)
    assert with_val.history_["val_accuracy"][-1] == pytest.approx(with_val.score(rows_test, y_test))
    assert with_val.weight_.tobytes() == plain.weight_.tobytes()


@pytest.mark.parametrize("kind", [CRT, LWS])
def test_best_val_keeps_the_first_best_epoch(kind, tail):
    rows, y, rows_test, y_test, _ = tail
    many = y_test < 3  # balanced training gets worse on the head classes, so the best epoch is an early one
    fitted = kind(epochs=6, batch_size=64, select="best_val").fit(rows, y, rows_test[many], y_test[many])
    accuracies = fitted.history_["val_accuracy"]
    assert fitted.selected_epoch_ == 1 + int(np.argmax(accuracies))
    assert fitted.score(rows_test[many], y_test[many]) == pytest.approx(max(accuracies))
    assert max(accuracies) > accuracies[-1]
    assert kind(epochs=6, batch_size=64).fit(rows, y, rows_test, y_test).selected_epoch_ == 6


@pytest.mark.parametrize("kind", [CRT, LWS])
def test_batch_size_above_the_rows_becomes_their_number_with_a_message(kind, caplog):
    rows, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3
    with caplog.at_level(logging.INFO, logger="longtail.methods.heads"):
        clipped = kind(epochs=2).fit(rows, y)
    assert "batch_size 512 exceeds the 30 rows and becomes 30" in caplog.text
    assert clipped.weight_.tobytes() == kind(epochs=2, batch_size=30).fit(rows, y).weight_.tobytes()


@pytest.mark.parametrize(("kind", "name"), [(CRT, "crt"), (LWS, "lws")])
def test_divergence_is_an_error_that_names_method_and_epoch(kind, name):
    rows, y = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3
    with pytest.raises(TrainingError, match=rf"{name}: training diverged in epoch 1 of 5"):
        kind(epochs=5, batch_size=10, lr=1e38).fit(rows, y)


@pytest.mark.parametrize("kind", [CRT, LWS])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_keeps_the_dtype_of_the_features(kind, dtype, tail):
    rows, y, *_ = tail
    fitted = kind(epochs=2, batch_size=64).fit(rows.astype(dtype), y)
    assert fitted.weight_.dtype == fitted.bias_.dtype == fitted.scores(rows.astype(dtype)).dtype == dtype


@pytest.mark.parametrize("kind", [CRT, LWS])
def test_features_are_left_untouched(kind, tail):
    rows, y, *_ = tail
    before = rows.tobytes()
    kind(epochs=2, batch_size=64).fit(rows, y)
    assert rows.tobytes() == before


@pytest.mark.parametrize("kind", [CRT, LWS])
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"lr": -1.0}, "lr must be a finite number >= 0, got -1.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be a finite number"),
        ({"select": "best"}, "select must be one of last, best_val, got 'best'"),
        ({"select": "best_val"}, "'best_val' needs X_val and y_val"),
        ({"device": "abacus"}, "'abacus' is not a torch device"),
    ],
)
def test_training_values_out_of_range_are_refused(kind, arguments, reason):
    with pytest.raises(ConfigError, match=reason):
        kind(**arguments).fit(X, Y)


# ------------------------------------------------------------------------------------------------------- cosine heads


@pytest.fixture
def cosine_head():
    return LinearHead(
        np.random.default_rng(5).normal(size=(10, 16)) * np.linspace(0.1, 4, 10)[:, None], None, "cosine", 8
    )


def test_joint_on_a_cosine_head_scores_scale_times_cosine(cosine_head, tail):
    rows, y, rows_test, *_ = tail
    joint = Joint(head=cosine_head).fit(rows, y)
    np.testing.assert_allclose(joint.scores(rows_test), 8 * normalize(rows_test) @ normalize(cosine_head.weight).T)
    assert joint.unit_input_


def test_tau_changes_nothing_on_a_cosine_head(cosine_head, tail):
    rows, y, rows_test, *_ = tail
    joint = Joint(head=cosine_head).fit(rows, y)
    for tau in (0.0, 1.0, 2.0):
        np.testing.assert_allclose(
            TauNorm(tau, head=cosine_head).fit(rows, y).scores(rows_test), joint.scores(rows_test)
        )


def test_lws_on_a_cosine_head_scales_its_cosines(cosine_head, tail):
    rows, y, rows_test, *_ = tail
    fitted = LWS(head=cosine_head, batch_size=64).fit(rows, y)
    np.testing.assert_allclose(
        fitted.scores(rows_test), fitted.scales_ * cosine_head.scores(rows_test), rtol=1e-9, atol=1e-12
    )
    assert fitted.bias_ is None and fitted.unit_input_
    assert fitted.history_["loss"][-1] < fitted.history_["loss"][0]


def test_cosine_head_scores_zero_for_zero_features_and_rows():
    head = LinearHead(np.array([[1.0, 0.0], [0.0, 0.0]]), None, "cosine", 4.0)
    np.testing.assert_array_equal(head.scores(np.array([[0.0, 0.0], [3.0, 0.0]])), [[0.0, 0.0], [4.0, 0.0]])


def test_any_object_with_weight_and_bias_is_a_head(cosine_head, tail):
    class Stored:
        weight, bias, kind, scale = cosine_head.weight, None, "cosine", 8.0

    rows, y, rows_test, *_ = tail
    np.testing.assert_array_equal(
        Joint(head=Stored()).fit(rows, y).scores(rows_test), Joint(head=cosine_head).fit(rows, y).scores(rows_test)
    )


# -------------------------------------------------------------------------------------------------------- fitted heads


def test_two_class_softmax_head_is_the_optimum_of_the_same_loss():
    stream = np.random.default_rng(0)
    rows, y = stream.normal(size=(80, 3)), stream.integers(0, 2, 80)
    head = Joint().fit(rows, y).linear_head_
    weight, bias = (torch.tensor(a, requires_grad=True) for a in (head.weight, head.bias))
    logits = torch.from_numpy(rows) @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="sum") + weight.square().sum() / 2
    loss.backward()
    assert weight.grad.abs().max() < 1e-2 and bias.grad.abs().max() < 1e-2


def test_linear_head_of_one_class_is_refused():
    with pytest.raises(DataError, match="only one class"):
        Joint().fit(X, np.zeros(4, dtype=int))


def test_lowest_class_wins_ties():
    assert Joint(head=(np.zeros((3, 2)), None)).fit(X, Y).predict(X).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_toy_long_tail_behaves_as_published(seed):
    rows, y, rows_test, y_test, counts = long_tail(seed)

    def many_and_few(head):
        predicted = head.fit(rows, y).predict(rows_test)
        accuracy = np.array([(predicted[y_test == c] == c).mean() for c in range(10)])
        return accuracy[:3].mean(), accuracy[7:].mean()

    joint = Joint().fit(rows, y)
    norms = np.linalg.norm(joint.weight_, axis=1)
    assert np.corrcoef(norms, np.log(counts))[0, 1] > 0.3
    many_0, few_0 = many_and_few(TauNorm(0.0, head=joint.linear_head_))
    many_1, few_1 = many_and_few(TauNorm(1.0, head=joint.linear_head_))
    assert few_1 > few_0 and many_1 < many_0
    few = many_and_few(joint)[1]
    assert many_and_few(CRT(batch_size=64))[1] > few + 0.05
    assert many_and_few(LWS(batch_size=64, head=joint.linear_head_))[1] > few + 0.05
    assert many_and_few(NCM())[1] > few + 0.05


# Post-hoc logit adjustment


def test_logit_adjustment_has_the_worked_probabilities_of_balanced_softmax_undone():
    """z + log n is what balanced softmax trains; taking log n off gives z back, up to a constant."""
    y = np.repeat([0, 1, 2], [100, 10, 1])
    X = np.random.default_rng(0).normal(size=(111, 4))
    weight, bias = np.random.default_rng(1).normal(size=(3, 4)), np.array([0.5, -0.5, 1.0])
    trained = bias + np.log([100, 10, 1])
    found = LogitAdjustment(head=(weight, trained)).fit(X, y).scores(X)
    expected = X @ weight.T + bias
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=1e-9)


def test_logit_adjustment_moves_scores_by_the_log_prior_alone():
    y = np.repeat([0, 1], [30, 10])
    X = np.random.default_rng(0).normal(size=(40, 3))
    head = (np.eye(2, 3), None)
    plain = LogitAdjustment(0.0, head=head).fit(X, y).scores(X)
    np.testing.assert_allclose(plain, X[:, :2], atol=1e-12)
    for adjustment in (0.5, 1.0, 2.0):
        moved = LogitAdjustment(adjustment, head=head).fit(X, y).scores(X)
        np.testing.assert_allclose(plain - moved, np.tile(adjustment * np.log([0.75, 0.25]), (40, 1)), atol=1e-12)


def test_logit_adjustment_of_a_cosine_head_acts_on_its_scaled_cosines():
    y = np.repeat([0, 1], [30, 10])
    X = np.random.default_rng(0).normal(size=(40, 3))
    weight = np.random.default_rng(1).normal(size=(2, 3))
    head = LinearHead(weight, None, "cosine", 16.0)
    found = LogitAdjustment(head=head).fit(X, y).scores(X)
    np.testing.assert_allclose(found, head.scores(X) - np.log([0.75, 0.25]), atol=1e-9)


def test_logit_adjustment_below_zero_is_refused():
    with pytest.raises(ConfigError, match="adjustment must be at least 0, got -1"):
        LogitAdjustment(-1.0).fit(np.eye(4), np.array([0, 0, 1, 1]))
