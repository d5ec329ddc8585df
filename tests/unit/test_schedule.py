import pytest

from longtail.engine.schedule import SCHEDULES, create_schedule
from longtail.errors import ConfigError

BY_EPOCH = [name for name in SCHEDULES if name != "cosine_per_step"]


def rates(name, base, **arguments):
    multiplier = create_schedule(name, **arguments)
    return [base * multiplier(epoch, 0.0) for epoch in range(arguments["epochs"])]


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (5, [0.180902, 0.130902, 0.069098, 0.019098, 0]),
        (10, [0.195106, 0.180902, 0.158779, 0.130902, 0.1, 0.069098, 0.041221, 0.019098, 0.004894, 0]),
    ],
)
def test_cosine_has_the_worked_values(epochs, expected):
    assert rates("cosine", 0.2, epochs=epochs) == pytest.approx(expected, abs=1e-6)


def test_cosine_over_ninety_epochs_has_the_worked_values():
    values = rates("cosine", 0.2, epochs=90)
    assert values[0] == pytest.approx(0.19993908, abs=1e-8)
    assert values[44] == pytest.approx(0.1)
    assert values[88] == pytest.approx(6.092e-5, abs=1e-8)


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0), (5, 0), (7, 3), (90, 0), (200, 5)])
def test_cosine_ends_at_exactly_zero(epochs, warmup):
    assert rates("cosine", 0.2, epochs=epochs, warmup_epochs=warmup)[-1] == 0.0


def test_cosine_is_stepped_before_the_first_epoch():
    assert rates("cosine", 0.2, epochs=5)[0] < 0.2


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.2), (4, 1), (5, 1), (159, 1), (160, 0.01), (179, 0.01), (180, 1e-4), (199, 1e-4)],
)
def test_step_has_the_worked_values_of_ldam(epoch, expected):
    schedule = create_schedule("step", epochs=200, warmup_epochs=5, milestones=(160, 180), gamma=0.01)
    assert schedule(epoch, 0.0) == pytest.approx(expected, rel=1e-12)


def test_step_drops_twice_unlike_the_released_essence_scripts():
    assert create_schedule("step", epochs=200, warmup_epochs=5, milestones=(160, 180), gamma=0.01)(
        180, 0.0
    ) != pytest.approx(0.01)


def test_step_milestones_default_to_eighty_and_ninety_percent():
    default = rates("step", 1.0, epochs=30)
    assert default == rates("step", 1.0, epochs=30, milestones=(24, 27), gamma=0.1)
    assert (default[23], default[24], default[26], default[27]) == pytest.approx((1.0, 0.1, 0.1, 0.01))


@pytest.mark.parametrize("name", BY_EPOCH)
def test_warm_up_is_linear_in_epochs(name):
    assert rates(name, 1.0, epochs=10, warmup_epochs=4)[:4] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("name", BY_EPOCH)
def test_warm_up_may_fill_the_training(name):
    assert rates(name, 1.0, epochs=2, warmup_epochs=2) == [0.5, 1.0]


def test_constant_is_one():
    assert rates("constant", 1.0, epochs=3) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", BY_EPOCH)
def test_rate_is_constant_within_an_epoch(name):
    schedule = create_schedule(name, epochs=6, warmup_epochs=2)
    assert all(schedule(epoch, 0.0) == schedule(epoch, 0.999) for epoch in range(6))


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("linear", {"epochs": 5}, "unknown schedule 'linear'; allowed: constant, cosine, step, cosine_per_step"),
        ("cosine", {"epochs": 0}, "epochs must be at least 1, got 0"),
        ("cosine", {"epochs": 5, "warmup_epochs": 6}, r"between 0 and epochs \(5\), got 6"),
        ("step", {"epochs": 5, "gamma": 0.0}, "gamma must be above 0, got 0.0"),
    ],
)
def test_values_out_of_range_are_refused(name, arguments, reason):
    with pytest.raises(ConfigError, match=reason):
        create_schedule(name, **arguments)


def test_cosine_per_step_has_the_worked_values_of_the_bns_finetuning():
    schedule = create_schedule("cosine_per_step", epochs=100, warmup_epochs=5)
    found = [2.5e-4 * schedule(epoch, part) for epoch, part in ((0, 0.0), (2, 0.5), (5, 0.0), (50, 0.0), (90, 0.0))]
    assert found == pytest.approx([0, 1.25e-4, 2.5e-4, 1.353224e-4, 6.772845e-6], rel=1e-6, abs=1e-12)


def test_cosine_per_step_falls_within_an_epoch_and_starts_at_the_base_rate_without_warmup():
    schedule = create_schedule("cosine_per_step", epochs=3)
    values = [schedule(epoch, part / 4) for epoch in range(3) for part in range(4)]
    assert values[0] == 1.0
    assert values == sorted(values, reverse=True) and len(set(values)) == 12
    assert 0 < values[-1] < 0.02


def test_warm_up_of_cosine_per_step_may_fill_the_training():
    schedule = create_schedule("cosine_per_step", epochs=2, warmup_epochs=2)
    assert [schedule(0, 0.0), schedule(0, 0.5), schedule(1, 0.5)] == [0.0, 0.25, 0.75]
