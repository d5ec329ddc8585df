"""The stage-1 head as it is."""

import numpy as np

from longtail.methods.heads import Joint, TauNorm
from tests.unit.methods.heads.helpers import B, W, X, Y


def test_joint_has_the_worked_values_and_tau_zero_is_not_joint():
    joint = Joint(head=(W, B)).fit(X, Y)
    np.testing.assert_allclose(joint.scores(X)[:2], [[5.1, 2.0, -1.26], [3.9, 0.2, 0.15]])
    assert joint.predict(X).tolist() == [0, 0, 0, 2]
    assert not np.allclose(TauNorm(0.0, head=(W, B)).fit(X, Y).scores(X), joint.scores(X))
