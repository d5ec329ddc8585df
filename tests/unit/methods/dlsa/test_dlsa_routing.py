import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from longtail.core.errors import DataError, TrainingError
from longtail.methods.dlsa.flow_training import batch_sizes, class_means, frequency_groups, group_likelihoods
from longtail.methods.dlsa.pairs import PairSampler
from longtail.methods.dlsa.routing import cluster_class_counts, cluster_prior, random_scores, threshold

# -------------------------------------------------------------------------------------------------------- threshold


def shuffled(number, seed=0):
    """``number`` different log-likelihoods in random order."""
    stream = np.random.default_rng(seed)
    return stream.permutation(np.cumsum(stream.uniform(0.001, 1.0, number)) - 100.0)


@pytest.mark.parametrize(
    ("number", "index", "mapped"),
    [
        (7, 4, 3),
        (10, 7, 3),
        (20, 14, 6),
        (2642, 1849, 793),
        (115_846, 81_092, 34_754),
        (90, 62, 28),  # the official code's product: 90 * (1 - 0.3) is a little below 63
    ],
)
def test_threshold_has_the_worked_index_and_mapped_count(number, index, mapped):
    values = shuffled(number)
    ascending = np.sort(values)
    limit = threshold(values, 0.3)
    assert limit == pytest.approx((ascending[index - 1] + ascending[index]) / 2)
    assert (values >= limit).sum() == mapped == number - index


@pytest.mark.parametrize(
    ("values", "proportion", "kept"),
    [
        (shuffled(1000), 0.3, 300),
        (np.array([3.0, 2.0, 1.0, 2.0, 2.0]), 0.3, 4),  # tied rows stay together
        (np.array([1.0, 2.0, 3.0, 4.0]), 0.95, 4),  # no row is left
    ],
    ids=["distinct", "ties", "lowest"],
)
def test_rounding_moves_no_training_row_across_the_threshold(values, proportion, kept):
    limit = threshold(values, proportion)
    inside = values >= limit
    assert inside.sum() == kept
    for seed in range(5):
        noise = np.random.default_rng(seed).uniform(-1e-6, 1e-6, len(values))
        np.testing.assert_array_equal(values + noise >= limit, inside)


@pytest.mark.parametrize("low", [-100.0, np.nextafter(np.float32(-100.0), np.float32(0))])
def test_threshold_parts_neighboring_float32_numbers(low):
    """Halfway between them there is no float32."""
    low = np.float32(low)
    values = np.array([low, np.nextafter(low, np.float32(0))])
    assert (values >= threshold(values, 0.5)).tolist() == [False, True]


def test_tied_rows_at_the_threshold_are_all_kept():
    values = np.array([1.0, 2.0, 2.0, 2.0])
    assert (values >= threshold(values, 0.3)).tolist() == [False, True, True, True]


def test_proportion_one_keeps_every_row_also_later():
    assert threshold(shuffled(10), 1.0) == -np.inf


@pytest.mark.parametrize("values", [[-3.0], [2.0, 2.0, 2.0]])
def test_where_no_training_row_is_left_every_later_row_is_kept(values):
    assert threshold(np.array(values), 0.3) == -np.inf


@pytest.mark.parametrize("proportion", [0.3, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_log_likelihoods_that_are_not_finite_are_refused(bad, proportion):
    with pytest.raises(TrainingError, match=r"dlsa\.flow_lr"):
        threshold(np.array([0.0, bad, 1.0]), proportion)


# ---------------------------------------------------------------------------------------------------- cluster prior

CLUSTER = np.array([0] * 7 + [2] * 3)
LABEL = np.array([0] * 6 + [1] + [0] * 2 + [1])  # class 0: six rows in cluster 0, two in 2; class 1: one in each


def test_cluster_counts_have_the_worked_values():
    counts = cluster_class_counts(CLUSTER, LABEL, 4, 3)
    assert counts.tolist() == [[6, 1, 0], [0, 0, 0], [2, 1, 0], [0, 0, 0]]


def test_cluster_prior_has_the_worked_values():
    prior = cluster_prior(CLUSTER, LABEL, 4, 3)
    assert prior.dtype == np.float32
    np.testing.assert_allclose(prior, [[6 / 7, 1 / 7, 0], [0, 0, 0], [2 / 3, 1 / 3, 0], [0, 0, 0]], rtol=1e-6)


def test_balanced_cluster_prior_has_the_worked_values():
    """Shares (6/8, 1/2) of the two classes lie in cluster 0 and (2/8, 1/2) in cluster 2."""
    prior = cluster_prior(CLUSTER, LABEL, 4, 3, balanced=True)
    np.testing.assert_allclose(prior, [[0.6, 0.4, 0], [0, 0, 0], [1 / 3, 2 / 3, 0], [0, 0, 0]], rtol=1e-6)
    single = cluster_prior(np.append(CLUSTER, 0), np.append(LABEL, 2), 4, 3, balanced=True)
    np.testing.assert_allclose(single[0], [1 / 3, 2 / 9, 4 / 9], rtol=1e-6)


@pytest.mark.parametrize("balanced", [False, True])
def test_rows_of_the_cluster_prior_sum_to_one_or_are_empty(balanced):
    stream = np.random.default_rng(0)
    cluster, y = stream.integers(0, 50, 80), stream.integers(0, 7, 80)
    prior = cluster_prior(cluster, y, 50, 7, balanced=balanced)
    filled = np.isin(np.arange(50), cluster)
    assert 0 < filled.sum() < 50
    np.testing.assert_allclose(prior[filled].sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(prior[~filled], 0.0)


def test_cluster_prior_weighted_by_cluster_sizes_is_the_class_distribution():
    stream = np.random.default_rng(1)
    cluster, y = stream.integers(0, 9, 500), stream.integers(0, 7, 500)
    shares = np.bincount(cluster, minlength=10) / 500 @ cluster_prior(cluster, y, 10, 7)
    np.testing.assert_allclose(shares, np.bincount(y, minlength=7) / 500, rtol=1e-5)


def test_balanced_cluster_prior_does_not_depend_on_how_many_rows_a_class_has():
    stream = np.random.default_rng(2)
    cluster, y = stream.integers(0, 5, 60), stream.integers(0, 3, 60)
    more = np.concatenate([np.arange(60), *[np.flatnonzero(y == 0)] * 9])
    priors = [cluster_prior(cluster[rows], y[rows], 5, 3, balanced=True) for rows in (np.arange(60), more)]
    np.testing.assert_allclose(priors[0], priors[1], rtol=1e-6)


# ---------------------------------------------------------------------------------------------------- pair sampler

COUNTS = {2: 60, 5: 5, 9: 30, 11: 1}  # labels with gaps
LABELS = torch.tensor(np.random.default_rng(0).permutation(np.repeat(list(COUNTS), list(COUNTS.values()))))


def test_the_two_rows_of_a_pair_are_always_of_different_classes():
    positive, negative = PairSampler(LABELS).draw(0, 20_000)
    assert (LABELS[positive] != LABELS[negative]).all()


@pytest.mark.parametrize("half", [0, 1])
def test_pairs_draw_classes_uniformly_and_rows_uniformly_inside_a_class(half):
    drawn = PairSampler(LABELS).draw(1, 40_000)[half]
    of_class = [(LABELS[drawn] == label).sum().item() for label in COUNTS]
    assert chisquare(of_class).pvalue > 1e-3
    for label in COUNTS:
        rows = torch.bincount(drawn, minlength=len(LABELS))[label == LABELS]
        assert chisquare(rows.numpy()).pvalue > 1e-3 if len(rows) > 1 else rows.item() > 0


def test_every_ordered_pair_of_classes_is_equally_likely():
    positive, negative = PairSampler(LABELS).draw(2, 40_000)
    pairs = torch.stack([LABELS[positive], LABELS[negative]]).unique(dim=1, return_counts=True)[1]
    assert len(pairs) == 12
    assert chisquare(pairs.numpy()).pvalue > 1e-3


def test_pairs_are_a_function_of_the_seed():
    sampler = PairSampler(LABELS)
    first, again, other = (torch.stack(sampler.draw(seed, 200)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert torch.equal(first, torch.stack(PairSampler(LABELS.clone()).draw(3, 200)))
    assert (first != other).float().mean() > 0.5


def test_pairs_of_a_single_class_are_refused():
    with pytest.raises(DataError, match="at least two classes"):
        PairSampler(torch.full((5,), 3))


# --------------------------------------------------------------------------------------------------- random routing


def test_random_scores_are_a_function_of_the_row_alone():
    rows = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    scores = random_scores(rows, 7)
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_array_equal(random_scores(rows[order], 7), scores[order])
    np.testing.assert_array_equal([random_scores(row[None], 7)[0] for row in rows], scores)
    np.testing.assert_array_equal(random_scores(np.asfortranarray(rows), 7), scores)
    np.testing.assert_array_equal(random_scores(rows[[3, 3]], 7), scores[[3, 3]])


def test_random_scores_are_uniform_and_unrelated_between_seeds():
    rows = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
    one, other = random_scores(rows, 7), random_scores(rows, 2**63 - 1)
    for scores in (one, other):
        assert ((scores >= 0) & (scores < 1)).all()
        assert kstest(scores, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.08
    assert abs(np.corrcoef(one, rows[:, 0])[0, 1]) < 0.08


# ------------------------------------------------------------------------------------------------- groups, batches


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        ([5, 100, 50, 20, 10, 80], [2, 0, 1, 1, 2, 0]),
        ([7, 7, 7], [0, 1, 2]),
        ([1, 2], [1, 0]),
        ([3, 9, 6, 12], [2, 0, 1, 0]),
        ([4], [0]),
    ],
)
def test_frequency_groups_are_thirds_from_most_to_fewest_rows(counts, groups):
    assert frequency_groups(np.array(counts)).tolist() == groups


def test_group_likelihoods_are_means_over_the_classes_that_have_rows():
    means = class_means(np.array([1.0, 3.0, 5.0, 7.0]), np.array([0, 0, 2, 3]), 5)
    np.testing.assert_array_equal(means, [2.0, np.nan, 5.0, 7.0, np.nan])
    np.testing.assert_array_equal(group_likelihoods(means, np.array([0, 0, 1, 1, 2])), [2.0, 6.0, np.nan])


@pytest.mark.parametrize(
    ("rows", "batch_size", "sizes"),
    [
        (96, 32, [32, 32, 32]),
        (111, 32, [32, 32, 32]),  # 15 rows more
        (112, 32, [32, 32, 32, 16]),
        (97, 32, [32, 32, 32]),  # a batch of one row has no variance
        (40, 40, [40]),
        (10, 10, [10]),
        (20, 8, [8, 8]),
        (2, 2, [2]),
    ],
)
def test_batches_are_whole_or_of_at_least_16_rows(rows, batch_size, sizes):
    assert batch_sizes(rows, batch_size) == sizes
