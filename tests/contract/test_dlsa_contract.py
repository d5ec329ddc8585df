"""DLSA keeps scikit-learn's estimator contract, and its package imports no torch before it is needed."""

import inspect
import subprocess
import sys
from dataclasses import fields

import pytest
from sklearn.base import clone

import longtail.methods.dlsa as dlsa
from longtail.core.params import keys_of
from longtail.methods.dlsa import DLSA, PRESETS, Settings
from longtail.methods.dlsa.settings import DlsaParams
from tests.contract.estimator_checks import each_check

FAST = {"epochs": 2, "flow_epochs": 1}
ALL = [
    DLSA(**FAST),
    DLSA(preset="latent", **FAST),
    DLSA(preset="imagenet_lt_paco", clusters=5, second_branch="zero", **FAST),
    DLSA(depth=0, epochs=5),
]


@each_check(ALL)
def test_estimator_keeps_the_scikit_learn_contract(estimator, check):
    check(estimator)


def test_parameters_are_the_settings_and_what_surrounds_them():
    """preset first, then every setting, each left to the preset unless it is given."""
    parameters = inspect.signature(DLSA).parameters
    names = [spec.name for spec in fields(Settings)]
    around = {"preset": "small", "head": None, "device": "cpu", "progress": "off", "random_state": 0}
    assert set(parameters) == {*names, *around}
    assert set(DLSA().get_params()) == set(parameters)
    assert {name: parameters[name].default for name in around} == around
    assert {parameters[name].default for name in names} == {"auto"}


def test_parameters_of_the_stage_are_the_settings_and_the_presets():
    keys = keys_of(DlsaParams)
    assert set(keys) == {"enabled", "preset", *(spec.name for spec in fields(Settings))}
    assert tuple(keys["preset"].choices()) == PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_clone_keeps_every_parameter(preset):
    model = DLSA(preset=preset, depth=2, q=0.5, random_state=3)
    assert clone(model).get_params() == model.get_params()


def test_importing_the_package_imports_no_torch_until_an_estimator_is_asked_for():
    program = (
        "import sys, longtail.methods.dlsa as dlsa; before = 'torch' in sys.modules; "
        "dlsa.Settings, dlsa.PRESETS; settings = 'torch' in sys.modules; "
        "dlsa.DLSA; sys.exit(before or settings or 'torch' not in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_package_lists_its_names_and_refuses_others():
    assert set(dlsa.__all__) <= set(dir(dlsa))
    assert all(getattr(dlsa, name) is not None for name in dlsa.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        dlsa.Nothing  # noqa: B018
