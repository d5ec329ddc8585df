"""The nearest class mean."""

import numpy as np
import pytest

from longtail.core.errors import ConfigError
from longtail.methods.heads import NCM

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


def test_ncm_mean_is_over_images_and_centroids_are_not_normalized_again():
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
    with pytest.raises(ConfigError, match=r"ncm\.feature must be one of un, l2n, cl2n, got raw$"):
        NCM("raw").fit(F, F_LABELS)
    with pytest.raises(ConfigError, match=r"ncm\.distance must be one of l2, cos, true_cosine, got euclid$"):
        NCM(distance="euclid").fit(F, F_LABELS)
