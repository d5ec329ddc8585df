"""The estimator DLSA: routing, warm start, determinism, selection, and edge cases."""

import logging

import numpy as np
import pytest
import torch
from scipy.special import softmax

from longtail.core.errors import ConfigError, DataError
from longtail.methods.dlsa import DLSA
from longtail.methods.dlsa.chain import unique_heads
from longtail.methods.dlsa.head_training import train_head
from longtail.methods.dlsa.routing import cluster_prior
from longtail.methods.dlsa.start import base_head
from longtail.methods.heads.base import LinearHead
from longtail.methods.heads.held_out import fifth_of_each_class
from longtail.methods.heads.softmax_regression import SoftmaxRegression
from tests.synthetic import hierarchical_features
from tests.unit.methods.dlsa.helpers import CLASSES, COSINE, FAST, START, TEST, VAL, WIDTH, X, Y, fitted


@pytest.mark.parametrize("routing", ["density", "random"])
def test_routing_is_a_partition_with_the_shares_asked_for(routing):
    model = fitted(depth=3, routing=routing, epochs=0)
    left, counts = len(X), []
    for _ in range(3):
        counts.append(left - int(left * (1 - 0.3)))
        left -= counts[-1]
    route = model.route(X)
    assert np.bincount(route, minlength=5).tolist() == [0, *counts, left]
    np.testing.assert_allclose(np.array([*counts, left]) / len(X), [0.3, 0.21, 0.147, 0.343], atol=2 / len(X))
    test_route = model.route(TEST[0])
    assert set(test_route) <= {1, 2, 3, 4}
    assert len(set(test_route)) == 4
    assert np.isin(model.predict(TEST[0]), np.arange(CLASSES)).all()
    assert np.isfinite(model.scores(TEST[0])).all()


def test_route_is_the_first_level_whose_density_reaches_its_threshold(deep):
    densities = deep.log_likelihood(TEST[0])
    thresholds = np.array([level.threshold for level in deep.chain_.levels])
    accepted = np.concatenate([densities >= thresholds, np.ones((len(densities), 1), bool)], axis=1)
    np.testing.assert_array_equal(deep.route(TEST[0]), accepted.argmax(axis=1) + 1)


def test_every_row_is_decided_by_the_classifier_of_its_route(deep):
    scores, route = deep.scores(TEST[0]), deep.route(TEST[0])
    clusters = deep.trace(TEST[0]).cluster
    offset, scale = deep.chain_.moments
    x = (torch.from_numpy(TEST[0]) - offset) / scale
    for number in range(1, 5):
        mine = route == number
        prior = np.zeros((mine.sum(), CLASSES), np.float32)
        if number < 4:
            prior = deep.chain_.levels[number - 1].prior[clusters[mine, number - 1]]
        with torch.no_grad():
            logits = deep.chain_.heads[number].head(x[mine], x[mine], torch.from_numpy(prior))
        np.testing.assert_allclose(scores[mine], logits, atol=1e-5)


@pytest.mark.parametrize("settings", [{"depth": 2}, {"depth": 2, "routing": "random", "z": "latent"}])
def test_a_row_gets_the_same_answers_in_whatever_batch_it_stands(settings):
    model = fitted(**settings)
    rows = np.concatenate([TEST[0], X[:30]])
    order = np.random.default_rng(0).permutation(len(rows))
    whole = model.trace(rows)
    alone = [model.trace(row[None]) for row in rows]
    shuffled = model.trace(rows[order])
    for name in ("route", "cluster"):
        np.testing.assert_array_equal(np.concatenate([getattr(one, name) for one in alone]), getattr(whole, name))
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(whole, name)[order])
    np.testing.assert_allclose(np.concatenate([one.log_density for one in alone]), whole.log_density, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([model.predict(row[None]) for row in rows]), model.predict(rows))
    np.testing.assert_array_equal(model.predict(rows[order]), model.predict(rows)[order])


def test_training_rows_take_the_same_routes_alone():
    model = fitted(depth=3, epochs=0)
    np.testing.assert_array_equal(np.concatenate([model.route(row[None]) for row in X]), model.route(X))


def test_a_row_too_far_for_the_flow_takes_the_regular_route_and_gets_an_answer():
    model = fitted(depth=2)
    far = np.full((1, WIDTH), 1e25, np.float32)
    with np.errstate(all="ignore"):
        assert model.route(far).tolist() == [3]
        assert model.predict(far)[0] in range(CLASSES)


def test_random_routing_says_nothing_of_the_density():
    model = fitted(routing="random", epochs=0)
    density = model.log_likelihood(X)[:, 0]
    route = model.route(X)
    assert density[route == 2].max() > density[route == 1].min()
    overlap = (density[route == 1] >= np.quantile(density, 0.7)).mean()
    assert 0.1 < overlap < 0.5
    assert 0.15 < (model.route(TEST[0]) == 1).mean() < 0.45


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 1},
        {"depth": 3, "heads": "shared"},
        {"depth": 2, "z": "latent", "cluster_prior": "balanced"},
        {"depth": 1, "z": "none"},
        {"depth": 0},
        {"preset": "latent"},
        {"preset": "imagenet_lt_paco", "second_branch": "zero", "clusters": 20},
    ],
    ids=str,
)
def test_warm_start_with_a_silent_branch_predicts_as_the_head_does(settings):
    model = fitted(**settings | {"epochs": 0})
    for rows in (X, TEST[0]):
        np.testing.assert_allclose(model.scores(rows), START.scores(rows), atol=1e-5)
        np.testing.assert_array_equal(model.predict(rows), START.scores(rows).argmax(axis=1))


def test_a_cosine_head_acts_on_unit_rows_here_too():
    model = fitted(head=COSINE, epochs=0, depth=2)
    np.testing.assert_allclose(model.scores(TEST[0]), COSINE.scores(TEST[0]), atol=1e-5)
    np.testing.assert_array_equal(model.predict(TEST[0]), COSINE.scores(TEST[0]).argmax(axis=1))
    trained = fitted(head=COSINE, depth=0, lr=0.5)
    assert not np.allclose(trained.scores(TEST[0]), COSINE.scores(TEST[0]))
    np.testing.assert_allclose(trained.scores(3 * TEST[0]), trained.scores(TEST[0]), atol=1e-4)


def test_rate_of_preset_small_is_that_of_the_rows_that_the_heads_see():
    """A linear head sees standardized features, a cosine head rows of norm 1."""
    mean_square = np.square(X, dtype=np.float64).sum(axis=1).mean()
    assert fitted(epochs=0).settings_.lr == pytest.approx(4 / WIDTH)
    assert fitted(epochs=0, head=None).settings_.lr == pytest.approx(0.25 / WIDTH)
    assert fitted(epochs=0, standardize=False).settings_.lr == pytest.approx(4 / mean_square)
    assert fitted(epochs=0, head=COSINE).settings_.lr == pytest.approx(4.0)


def test_without_a_flow_one_head_decides_all_rows():
    model = fitted(depth=0)
    assert model.depth_ == 0
    assert (model.route(TEST[0]) == 1).all()
    assert model.log_likelihood(TEST[0]).shape == (len(TEST[0]), 0)
    (trained,) = unique_heads(model.chain_.heads)
    assert trained.head.routes == [1]
    offset, scale = model.chain_.moments
    x = (torch.from_numpy(TEST[0]) - offset) / scale
    with torch.no_grad():
        logits = trained.head(x, x, torch.full((len(x), CLASSES), np.nan))
    np.testing.assert_allclose(model.scores(TEST[0]), logits, atol=1e-5)


def test_latent_branch_sees_the_latent_of_the_route():
    model = fitted(depth=2, z="latent", epochs=0)
    x = torch.from_numpy(TEST[0])
    rows = model.chain_.routed(x, None)
    for route, level in ((1, 0), (2, 1), (3, 1)):
        members = rows.rows_of([route])
        assert len(members)
        expected = model.chain_.levels[level].filter.latents(x[members])
        torch.testing.assert_close(rows.z[members], expected, atol=1e-5, rtol=1e-5)
    assert fitted(depth=1, epochs=0).chain_.routed(x, None).z is None


def test_latent_option_changes_the_classifier():
    by_features, by_latent = (fitted(z=z).scores(TEST[0]) for z in ("features", "latent"))
    assert np.isfinite(by_latent).all()
    assert not np.allclose(by_features, by_latent)


def test_preset_latent_keeps_every_row_on_the_first_route():
    model = fitted(preset="latent")
    assert (model.route(X) == 1).all()
    assert (model.route(TEST[0]) == 1).all()
    (trained,) = unique_heads(model.chain_.heads)
    assert trained.head.routes == [1, 2]


@pytest.mark.parametrize("with_val", [True, False])
def test_accuracy_is_near_that_of_the_control_and_of_the_start(with_val):
    """At most 0.3 points below its control, and near the base head, over three sets."""
    gains, over_start = [], []
    for seed in range(3):
        data = hierarchical_features(seed)
        rows = [*data["train"], *(data["val"] if with_val else ())]
        control = DLSA(random_state=seed, depth=0).fit(*rows)
        model = DLSA(random_state=seed).fit(*rows, starts=control.starts_)
        X_test, y_test = data["test"]
        start = (control.starts_.whole.scores(X_test).argmax(axis=1) == y_test).mean()
        gains.append(100 * (model.score(X_test, y_test) - control.score(X_test, y_test)))
        over_start.append(100 * (model.score(X_test, y_test) - start))
    assert -0.3 <= np.mean(gains) <= 1.0
    assert np.mean(over_start) >= -0.5


def test_same_seed_gives_the_same_bits_and_another_seed_other_routes(deep):
    again, other = fitted(depth=3), fitted(depth=3, random_state=1)
    assert again.scores(TEST[0]).tobytes() == deep.scores(TEST[0]).tobytes()
    assert again.log_likelihood(TEST[0]).tobytes() == deep.log_likelihood(TEST[0]).tobytes()
    assert (other.route(TEST[0]) != deep.route(TEST[0])).any()


def test_test_rows_are_followed_and_change_nothing(deep):
    followed = fitted(*TEST, depth=3)
    assert followed.scores(TEST[0]).tobytes() == deep.scores(TEST[0]).tobytes()
    assert followed.selected_on_ == "val"
    assert "test" in followed.chain_.levels[0].history.log_likelihood
    assert "test" not in deep.chain_.levels[0].history.log_likelihood


def test_held_out_rows_are_a_fifth_of_each_class_and_at_least_one():
    y = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [50, 9, 4, 2]))
    held_out = fifth_of_each_class(y, 0, at_least=1)
    assert np.bincount(y[held_out]).tolist() == [10, 1, 1, 1]
    np.testing.assert_array_equal(fifth_of_each_class(y, 0, at_least=1), held_out)
    assert (fifth_of_each_class(y, 1, at_least=1) != held_out).any()
    assert np.bincount(y[fifth_of_each_class(y, 0)], minlength=4).tolist() == [10, 1, 0, 0]


def test_nothing_is_held_out_where_a_class_has_a_single_row():
    keep = np.flatnonzero(Y < 3)
    keep = np.concatenate([keep[Y[keep] < 2], keep[Y[keep] == 2][:1]])
    model = DLSA(**FAST).fit(X[keep], Y[keep])
    assert model.selected_on_ == "last"
    assert [trained.epoch for trained in unique_heads(model.chain_.heads)] == [3, 3]
    assert model.chain_.levels[0].rule == "last"


def rows_seen(monkeypatch):
    """For each fit of a starting head, and each training of a head, its rows, its judged rows and its epochs."""
    starts, heads = [], []

    def start_spy(rows, *rest, **named):
        starts.append(rows)
        return base_head(rows, *rest, **named)

    def head_spy(head, train, counts, judges, settings, *rest):
        found = train_head(head, train, counts, judges, settings, *rest)
        judged = [rows.x[rows.rows_of(head.routes)].numpy() for rows in judges.values()]
        heads.append((train.x[train.rows_of(head.routes)].numpy(), judged, settings.epochs, found[0]))
        return found

    monkeypatch.setattr("longtail.methods.dlsa.estimator.base_head", start_spy)
    monkeypatch.setattr("longtail.methods.dlsa.chain.train_head", head_spy)
    return starts, heads


def as_set(rows):
    return {row.tobytes() for row in rows}


def test_without_validation_rows_a_slice_chooses_and_is_then_given_back(monkeypatch):
    """It chooses among heads that have not seen it, from a start that has not; then all rows train for as long."""
    starts, heads = rows_seen(monkeypatch)
    model = DLSA(**FAST, depth=0, lr=0.1).fit(X, Y)
    assert model.selected_on_ == "train_slice"
    assert [len(rows) for rows in starts] == [len(X), len(X) - np.maximum(1, np.bincount(Y) // 5).sum()]
    (trained, (judged,), _, chosen), (again, nobody, epochs, last) = heads
    assert as_set(trained) == as_set(starts[1])
    assert as_set(judged) == as_set(X) - as_set(trained)
    assert as_set(again) == as_set(X)
    assert (nobody, epochs, last) == ([], chosen, chosen)
    (head,) = unique_heads(model.chain_.heads)
    assert (head.epoch, head.selected_on) == (chosen, "val")
    assert len(head.history["val_accuracy"]) == FAST["epochs"]


def test_no_label_of_the_slice_is_in_a_cluster_prior_that_it_is_judged_with(monkeypatch):
    seen = []

    def spy(cluster, y, *rest, **named):
        seen.append(np.bincount(y))
        return cluster_prior(cluster, y, *rest, **named)

    monkeypatch.setattr("longtail.methods.dlsa.chain.cluster_prior", spy)
    DLSA(**FAST).fit(X, Y)
    counts = np.bincount(Y)
    np.testing.assert_array_equal(seen, [counts, counts - np.maximum(1, counts // 5)])


def test_fit_can_take_the_starting_heads_of_another(monkeypatch):
    model = DLSA(**FAST)
    expected = model.fit(X, Y).scores(TEST[0])
    monkeypatch.setattr("longtail.methods.dlsa.estimator.base_head", lambda *a, **k: pytest.fail("fitted again"))
    assert DLSA(**FAST).fit(X, Y, starts=model.starts_).scores(TEST[0]).tobytes() == expected.tobytes()


def test_start_base_and_a_given_head_contradict_each_other():
    with pytest.raises(ConfigError, match=r"dlsa\.start must be given or auto where a head is given, got base"):
        fitted(start="base")


@pytest.mark.parametrize("with_val", [True, False])
def test_base_head_is_the_default_start(with_val):
    model = DLSA(epochs=0, flow_epochs=1).fit(X, Y, *(VAL if with_val else ()))
    start = base_head(X, Y, VAL if with_val else None)
    np.testing.assert_allclose(model.scores(TEST[0]), start.scores(TEST[0]), atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"depth": 0}, {"depth": 2, "flow_dims": 4}, {"preset": "latent"}], ids=str)
def test_scale_and_origin_of_the_features_do_not_matter(settings):
    """Up to rounding: at most one row in a thousand changes."""
    data = hierarchical_features(2, classes=8, width=12, largest=100, held_out=10, test=500)
    offset = (30.0 * np.linspace(-1, 1, 12)).astype(np.float32)
    answers = []
    for scale, origin in ((1.0, 0.0), (0.01, 0.0), (100.0, 0.0), (1.0, offset)):
        moved = {part: ((scale * x + origin).astype(np.float32), y) for part, (x, y) in data.items()}
        model = DLSA(epochs=5, flow_epochs=4, **settings).fit(*moved["train"])
        answers.append(model.predict(moved["test"][0]))
    assert all((answer != answers[0]).mean() <= 1e-3 for answer in answers)


def test_given_validation_rows_leave_all_training_rows_for_training(deep):
    assert deep.selected_on_ == "val"
    assert (deep.route(X) == 1).sum() == len(X) - int(len(X) * (1 - 0.3))


def test_choosing_on_test_needs_test_rows_and_is_marked():
    with pytest.raises(ConfigError, match=r"dlsa\.select_on must be val or last without X_test and y_test, got test"):
        fitted(select_on="test")
    model = fitted(*TEST, select_on="test")
    assert model.selected_on_ == "test"
    assert {trained.selected_on for trained in model.chain_.heads.values()} == {"test"}


def test_choosing_the_last_epoch_is_marked():
    model = fitted(select_on="last", flow_select="last")
    assert model.selected_on_ == "last"
    assert [trained.epoch for trained in unique_heads(model.chain_.heads)] == [3, 3]
    assert fitted(select_on="last").selected_on_ == "val"  # which chose the flow's epoch


def test_without_validation_rows_a_given_head_is_not_judged_on_rows_it_may_have_seen():
    """It knows them all, so the first epoch of such a choice would always win, and nothing would be trained."""
    knows_all = SoftmaxRegression(l2=1e-6).fit(X, Y).head_
    for settings in ({"depth": 0}, {"depth": 2}):
        model = DLSA(**FAST | settings, head=knows_all).fit(X, Y)
        assert {trained.epoch for trained in model.chain_.heads.values()} == {FAST["epochs"]}
        assert {trained.selected_on for trained in model.chain_.heads.values()} == {"last"}


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({}, True),
        ({}, False),
        ({"select_on": "last"}, False),
        ({"select_on": "test"}, True),
        ({"flow_select": "purity"}, False),
        ({"preset": "imagenet_lt_paco", "clusters": 5}, True),
    ],
)
def test_control_and_dlsa_train_their_heads_on_the_same_rows(settings, given, monkeypatch):
    seen = []

    def spy(head, train, *rest):
        seen.append(np.sort(train.x[train.rows_of(head.routes)].numpy(), axis=0))
        return train_head(head, train, *rest)

    monkeypatch.setattr("longtail.methods.dlsa.chain.train_head", spy)
    rows = []
    for depth in (0, 1):
        DLSA(**FAST | settings | {"depth": depth}, head=START if given else None).fit(X, Y, None, None, *TEST)
        rows.append(np.sort(np.concatenate(seen), axis=0))
        seen.clear()
    np.testing.assert_array_equal(*rows)


def test_rows_are_held_out_only_where_they_choose_something():
    without = DLSA(**FAST | {"depth": 0, "select_on": "last"}).fit(X, Y)
    assert without.selected_on_ == "last"
    rows_of_choosers = [DLSA(**FAST, depth=0).fit(X, Y), DLSA(**FAST | {"select_on": "last"}).fit(X, Y)]
    assert [model.selected_on_ for model in rows_of_choosers] == ["train_slice", "train_slice"]


def test_a_single_feature_is_refused_unless_no_flow_is_asked_for():
    with pytest.raises(DataError, match="n_features = 1"):
        DLSA(**FAST).fit(X[:, :1], Y)
    assert DLSA(depth=0, epochs=3).fit(X[:, :1], Y).predict(X[:, :1]).shape == Y.shape


@pytest.mark.parametrize("depth", [0, 1])
def test_a_single_class_is_refused(depth):
    with pytest.raises(DataError, match="at least 2 classes"):
        DLSA(depth=depth).fit(X[:20], np.zeros(20, int))


def test_more_clusters_than_rows_leave_empty_clusters_with_a_prior_of_zero():
    model = fitted(clusters=2 * len(X))
    (level,) = model.chain_.levels
    filled = level.prior.sum(axis=1)
    assert (filled == 0).sum() >= len(X)
    np.testing.assert_allclose(filled[filled > 0], 1.0, rtol=1e-5)
    assert np.isfinite(model.scores(TEST[0])).all()


@pytest.mark.parametrize("proportion", [1.0, 0.8], ids=["no row is left", "rows of one class are left"])
def test_chain_ends_where_fewer_than_two_classes_are_left(proportion, caplog):
    caplog.set_level(logging.INFO, logger="longtail")
    few = np.arange(len(Y)) % 6 == 0
    x, y = X[few], Y[few]
    model = DLSA(**FAST, depth=9, proportion=proportion, head=START).fit(x, y, *VAL)
    reached = model.depth_
    assert 1 <= reached < model.settings_.depth == 9
    assert f"level {reached + 1} is left with fewer than two classes, so the chain has depth {reached}" in caplog.text
    left = [np.unique(y[model.route(x) > level]) for level in range(reached + 1)]
    assert len(left[reached]) == (0 if proportion == 1 else 1)
    assert all(len(classes) >= 2 for classes in left[:reached])
    assert set(model.chain_.heads) == set(range(1, reached + 2))
    assert set(model.route(TEST[0])) <= set(model.chain_.heads)
    assert np.isfinite(model.scores(TEST[0])).all()


@pytest.mark.parametrize("preset", ["small", "imagenet_lt_ce"])
def test_a_route_without_training_rows_uses_the_starting_head(preset, caplog):
    caplog.set_level(logging.INFO, logger="longtail")
    model = fitted(preset=preset, proportion=1.0)
    assert "no training row takes route 2, whose classifier is the starting head" in caplog.text
    trained = model.chain_.heads[2]
    assert (trained.epoch, trained.selected_on) == (0, "last")
    x = torch.from_numpy(TEST[0])
    if model.chain_.moments is not None:
        x = (x - model.chain_.moments[0]) / model.chain_.moments[1]
    with torch.no_grad():
        logits = trained.head(x, x, torch.zeros(len(x), CLASSES))
    np.testing.assert_allclose(logits, START.scores(TEST[0]), atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value, deep):
    bad = X.copy()
    bad[3, 2] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        DLSA(**FAST).fit(bad, Y)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        deep.predict(bad)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        DLSA(**FAST).fit(X, Y, bad, Y)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        DLSA(**FAST).fit(X, Y, *VAL, bad, Y)


def test_features_of_another_width_are_refused(deep):
    narrow = TEST[0][:, :-1]
    for call in (deep.predict, deep.route, deep.log_likelihood, deep.scores):
        with pytest.raises(ValueError, match=f"{WIDTH - 1} features"):
            call(narrow)
    for given in ((narrow, TEST[1]), (*VAL, narrow, TEST[1])):
        with pytest.raises(ValueError, match=f"{WIDTH - 1} features"):
            DLSA(**FAST).fit(X, Y, *given)


@pytest.mark.parametrize("part", ["val", "test"])
def test_messages_about_other_rows_name_the_argument_given(part):
    rows, y = TEST
    with pytest.raises(ConfigError, match=f"X_{part} and y_{part} must be given together"):
        DLSA(**FAST).fit(X, Y, **{f"X_{part}": rows})
    with pytest.raises(DataError, match=f"y_{part} holds classes that y does not: 99"):
        DLSA(**FAST).fit(X, Y, **{f"X_{part}": rows, f"y_{part}": np.full(len(y), 99)})


def test_head_of_another_shape_is_refused():
    with pytest.raises(DataError, match=r"head\.weight must have shape \(6, 10\), .*, got \(6, 9\)"):
        DLSA(**FAST, head=LinearHead(START.weight[:, :-1], START.bias)).fit(X, Y)


def test_unknown_device_is_refused():
    with pytest.raises(ConfigError, match="dlsa: device 'abacus'"):
        DLSA(**FAST, device="abacus").fit(X, Y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("settings", [{"depth": 2}, {"preset": "latent"}, {"depth": 0}])
def test_everything_runs_in_the_dtype_of_the_features(dtype, settings):
    head = LinearHead(START.weight.astype(np.float64), START.bias.astype(np.float64))
    model = DLSA(**FAST, **settings, head=head).fit(X.astype(dtype), Y)
    assert model.scores(TEST[0].astype(dtype)).dtype == dtype
    assert model.log_likelihood(TEST[0].astype(dtype)).dtype == dtype
    tensors = [*model.chain_.heads[1].head.parameters()]
    tensors += [parameter for level in model.chain_.levels for parameter in level.filter.state_dict().values()]
    assert {tensor.numpy(force=True).dtype for tensor in tensors} == {np.dtype(dtype)}
    other = np.float64 if dtype is np.float32 else np.float32
    np.testing.assert_array_equal(model.predict(TEST[0].astype(other)), model.predict(TEST[0]))


def test_probabilities_are_the_softmax_of_the_scores(deep):
    np.testing.assert_allclose(deep.predict_proba(TEST[0]), softmax(deep.scores(TEST[0]), axis=1), rtol=1e-5)
    np.testing.assert_allclose(np.exp(deep.predict_log_proba(TEST[0])), deep.predict_proba(TEST[0]), rtol=1e-5)
