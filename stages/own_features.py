"""The features and the head of a dataset that is features: its own rows, and the given head or one fitted on them."""

from longtail.artifacts.digest import Scalar
from longtail.artifacts.feature_set import PARTS, features_file
from longtail.artifacts.features import Features, write_features
from longtail.artifacts.head_files import HeadFile, write_head
from longtail.data.manifest import read_manifest
from longtail.data.prepared_features import read_given_head, read_rows
from stages.base_head import fit
from stages.context import Context
from stages.data import read_split
from stages.paths import FEATURES, HEAD, PREPARED


def extract(context: Context) -> None:
    """Write the feature files and ``features/head.h5``. The digest of the prepared rows is that of the backbone."""
    manifest = read_manifest(PREPARED)
    split, split_digest = read_split()
    rows, digest = read_rows(PREPARED, manifest.labels)
    found: dict[str, Features] = {}
    for part in PARTS:
        index = getattr(split, part)
        found[part] = Features(
            features=rows[index],
            labels=manifest.labels[index],
            index=index,
            num_classes=manifest.info.num_classes,
            dataset=manifest.info.dataset,
            split_digest=split_digest,
            backbone_digest=digest,
            transform="",
        )
        write_features(features_file(FEATURES, part), found[part])
    head = read_given_head(PREPARED)
    notes: dict[str, Scalar] = {"head": "given file"}
    if head is None:
        head, notes = fit(found["train"], found["val"], context.device)
    write_head(HEAD, HeadFile("stage1", head, split_digest=split_digest, backbone_digest=digest, notes=notes))
