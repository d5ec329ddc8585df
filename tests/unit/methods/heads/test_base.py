"""Fitted linear heads, and all heads on one toy long tail."""

import numpy as np
import pytest

from longtail.core.errors import DataError
from longtail.methods.heads import CRT, LWS, NCM, Joint, TauNorm
from tests.unit.methods.heads.helpers import RELEASED, X, Y, long_tail


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
    assert many_and_few(CRT(**RELEASED, batch_size=64))[1] > few + 0.05
    assert many_and_few(LWS(head=joint.linear_head_))[1] > few + 0.05
    assert many_and_few(NCM())[1] > few + 0.05
