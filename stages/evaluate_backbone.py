"""Measure the backbone's own head alone: ``metrics/backbone.json``.

It needs no other head, so ``dvc exp run -S ... evaluate_backbone`` is the short way to compare objectives, starts or
splits. The studies (``longtail study``) run it.
"""

from longtail.artifacts.feature_set import features_file
from longtail.artifacts.features import read_features
from longtail.artifacts.predictions import read_predictions
from longtail.artifacts.tables import read_csv, write_json
from longtail.core.errors import ArtifactError
from longtail.data.blends import find_class
from longtail.data.params import SimilarParams
from longtail.evaluation.metrics import class_accuracy, group_means, group_of, percent
from longtail.evaluation.shots import Shots
from longtail.evaluation.similarity import class_means, cosine_matrix
from stages.context import Context, run
from stages.paths import CLASS_COUNTS, FEATURES, METRICS, PREDICTIONS

JOINT = "joint"
BACKBONE_METRICS = METRICS / "backbone.json"
CLASS_COLUMNS = ("label", "name", "train", "val", "test")


def main() -> None:
    context = Context("evaluate_backbone")
    shots, similar = context.group(Shots), context.group(SimilarParams)
    path = PREDICTIONS / f"{JOINT}.h5"
    predictions = read_predictions(path, f"rebalance@{JOINT}")
    train = read_features(features_file(FEATURES, "train"))
    if train.split_digest != predictions.split_digest:
        raise ArtifactError(path, "belongs to another split than the features", f"rebalance@{JOINT}")
    names = read_csv(CLASS_COUNTS, made_by="subsample", columns=CLASS_COLUMNS, text=("name",))["name"].tolist()
    accuracy = class_accuracy(predictions)
    measures = {"all": percent(predictions.correct.mean())}
    measures |= {
        name: percent(mean) for name, mean in group_means(accuracy, group_of(predictions.train_counts, shots)).items()
    }
    if predictions.num_classes >= 5:
        in_top = (predictions.top_class[:, :5] == predictions.label[:, None]).any(axis=1)
        measures["top5"] = percent(in_top.mean())
    if similar.head is not None and similar.tail is not None:
        head = find_class(similar.head, names, "similar.head")
        tail = find_class(similar.tail, names, "similar.tail")
        cosine = cosine_matrix(class_means(train.features, train.labels, predictions.num_classes))
        measures["head_tail_cosine"] = round(float(cosine[head, tail]), 6)
    # DVC passes over lists, so the accuracy of each class makes no columns in `dvc exp show`.
    write_json(BACKBONE_METRICS, measures | {"classes": [percent(value) for value in accuracy]})
    print(", ".join(f"{name} {value:g}" for name, value in measures.items()))


if __name__ == "__main__":
    run(main)
