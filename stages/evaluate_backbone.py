"""Measure the backbone's own head alone: ``metrics/backbone.json``.

It needs no other head, so ``dvc exp run -S ... evaluate_backbone`` is the short way to compare objectives, starts or
splits. The studies (``longtail study``) run it.
"""

from longtail.artifacts.tables import write_json
from longtail.data.blends import find_class
from longtail.data.params import SimilarParams
from longtail.evaluation.metrics import accuracy_measures, class_accuracy, percent
from longtail.evaluation.shots import Shots
from longtail.evaluation.similarity import class_means, cosine_matrix
from stages.context import Context, run
from stages.paths import METRICS
from stages.stored_run import read_row

JOINT = "joint"
BACKBONE_METRICS = METRICS / "backbone.json"


def main() -> None:
    context = Context("evaluate_backbone")
    shots, similar = context.group(Shots), context.group(SimilarParams)
    predictions, train, names = read_row(JOINT, f"rebalance@{JOINT}")
    measures = accuracy_measures(predictions, predictions.train_counts, shots)
    if similar.head is not None and similar.tail is not None:
        head = find_class(similar.head, names, "similar.head")
        tail = find_class(similar.tail, names, "similar.tail")
        cosine = cosine_matrix(class_means(train.features, train.labels, predictions.num_classes))
        measures["head_tail_cosine"] = round(float(cosine[head, tail]), 6)
    # DVC passes over lists, so the accuracy of each class makes no columns in `dvc exp show`.
    write_json(BACKBONE_METRICS, measures | {"classes": [percent(value) for value in class_accuracy(predictions)]})
    print(", ".join(f"{name} {value:g}" for name, value in measures.items()))


if __name__ == "__main__":
    run(main)
