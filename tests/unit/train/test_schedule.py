import pytest

from longtail.core.errors import ConfigError
from longtail.train.schedule import FSGL, SCHEDULES, create_schedule

BY_EPOCH = [name for name in SCHEDULES if name not in ("cosine_per_step", *FSGL)]


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


@pytest.mark.parametrize(("epochs", "warmup"), [(2, 0), (5, 0), (7, 3), (90, 0), (200, 5)])
def test_cosine_ends_at_exactly_zero(epochs, warmup):
    assert rates("cosine", 0.2, epochs=epochs, warmup_epochs=warmup)[-1] == 0.0


@pytest.mark.parametrize("name", ["cosine", "cosine_from_base", "cosine_per_step"])
def test_cosine_of_a_single_epoch_starts_at_the_base_rate(name):
    assert rates(name, 0.2, epochs=1) == [0.2]


@pytest.mark.parametrize(("name", "warmup", "expected"), [("cosine", 2, [0.5, 1.0]), ("cosine", 1, [1.0, 0.0])])
def test_cosine_after_warm_up_counts_the_remaining_epochs(name, warmup, expected):
    assert rates(name, 1.0, epochs=2, warmup_epochs=warmup) == expected


@pytest.mark.parametrize("name", BY_EPOCH)
def test_a_single_epoch_runs_at_the_base_rate(name):
    """By their rules the cosine would run it at 0, and two drops before it would leave gamma squared."""
    assert rates(name, 0.2, epochs=1) == [0.2]
    assert rates(name, 0.2, epochs=1, warmup_epochs=1) == [0.2]


def test_a_drop_before_a_single_epoch_that_was_asked_for_stays():
    assert rates("step", 1.0, epochs=1, milestones=(0,), gamma=0.1) == [0.1]


@pytest.mark.parametrize("epochs", [2, 3, 5, 10])
def test_default_drops_of_several_epochs_stay_where_they_were(epochs):
    expected = [0.1 ** ((epoch > epochs * 8 // 10) + (epoch > epochs * 9 // 10)) for epoch in range(1, epochs + 1)]
    assert rates("step", 1.0, epochs=epochs) == pytest.approx(expected)


def test_cosine_is_stepped_before_the_first_epoch():
    assert rates("cosine", 0.2, epochs=5)[0] < 0.2


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.2), (4, 1), (5, 1), (159, 1), (160, 0.01), (179, 0.01), (180, 1e-4), (199, 1e-4)],
)
def test_step_has_the_worked_values_of_ldam(epoch, expected):
    schedule = create_schedule("step", epochs=200, warmup_epochs=5, milestones=(160, 180), gamma=0.01)
    assert schedule(epoch, 0.0) == pytest.approx(expected, rel=1e-12)


def test_one_milestone_gives_the_released_essence_scripts_whose_second_drop_is_never_reached():
    ours, theirs = (
        create_schedule("step", epochs=200, warmup_epochs=5, milestones=milestones, gamma=0.01)
        for milestones in ((160, 180), (160,))
    )
    differ = [epoch for epoch in range(200) if ours(epoch, 0.0) != theirs(epoch, 0.0)]
    assert differ == list(range(180, 200)) and theirs(199, 0.0) == 0.01


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
        ("linear", {"epochs": 5}, "schedule must be one of constant, cosine, step, cosine_per_step, .*, got 'linear'"),
        ("fsgl_imagenet", {"epochs": 20, "warmup_epochs": 3}, "warmup_epochs must be 0 with schedule fsgl_imagenet"),
        ("cosine", {"epochs": 0}, "epochs must be at least 1, got 0"),
        ("cosine", {"epochs": 5, "warmup_epochs": 6}, r"from 0 to epochs \(5\), got 6"),
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


def test_cosine_from_base_has_the_worked_values_of_fsgl_on_cifar():
    values = rates("cosine_from_base", 0.01, epochs=200)
    assert [values[epoch] for epoch in (0, 100, 199)] == pytest.approx([0.01, 0.005, 6.168e-7], rel=1e-4)


def test_cosine_from_base_is_the_cosine_one_epoch_later():
    later, plain = (rates(name, 1.0, epochs=12, warmup_epochs=3) for name in ("cosine_from_base", "cosine"))
    assert later[:4] == [1 / 3, 2 / 3, 1.0, 1.0] and later[4:] == plain[3:-1]


def test_released_fsgl_schedule_has_the_worked_values():
    values = rates("fsgl_imagenet_released", 0.1, epochs=135)
    expected = {0: 0.1, 1: 0.01, 2: 0.02, 10: 0.1, 11: 0.11, 12: 0.099938, 134: 6.2e-5}
    assert [values[epoch] for epoch in expected] == pytest.approx(list(expected.values()), rel=3e-3)
    assert values[12] == pytest.approx(0.099938, abs=5e-7)


@pytest.mark.parametrize("epochs", [5, 12, 135])
def test_fsgl_schedule_is_the_released_rule_an_epoch_earlier_and_never_above_the_base_rate(epochs):
    ours, released = (rates(name, 1.0, epochs=epochs) for name in FSGL)
    assert ours[:-1] == [min(1.0, value) for value in released[1:]]
    assert max(ours) <= 1.0 and min(ours) >= 0.0
