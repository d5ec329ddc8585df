"""The first stage: check all of params.yaml, and write the code digest of every stage.

It always runs and takes a fraction of a second. DVC compares the digests, so a stage runs again when the code that it
reaches for its parameters has changed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtail.artifacts.atomic import atomic_open
from longtail.core.yaml import read_yaml
from stages.context import check_file, fingerprint_file, run
from stages.fingerprints import Sources
from stages.own_files import own_files_digest, weights_digest
from stages.paths import FINGERPRINTS, PARAMS

if TYPE_CHECKING:
    from longtail.data.params import DatasetParams

DAG = Path("dvc.yaml")


def main() -> None:
    content = read_yaml(PARAMS)
    check_file(content)
    sources = Sources()
    digests = {
        fingerprint_file(stage, argument): fingerprint(sources, stage, argument, content)
        for stage, argument in stages_of(read_yaml(DAG))
    }
    for path, digest in digests.items():
        with atomic_open(path) as file:
            file.write(digest + "\n")
    for path in set(FINGERPRINTS.iterdir()) - digests.keys():  # of a stage that is no longer in dvc.yaml
        path.unlink(missing_ok=True)
    sources.save()


def stages_of(dag: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and argument (or "") of every stage of dvc.yaml but this one, by their commands."""
    for stage in dag["stages"].values():
        command = stage.get("do", stage)["cmd"]
        for item in stage.get("foreach", [""]):
            words = command.replace("${item}", str(item)).split()
            name = words[2].removeprefix("stages.")
            if name != "check":
                yield name, " ".join(words[3:])


def fingerprint(sources: Sources, stage: str, argument: str, content: Mapping[str, Any]) -> str:
    """Digest of the code that a stage reaches for these parameters, and of what dvc.yaml cannot name.

    For ``prepare`` these are the user's own files, whether there are pretrained weights (no other method of pretraining
    changes anything there), and the backbone if its size decides. For ``pretrain`` it is the weights file.

    Raises:
        ConfigError: the weights file is missing, and nothing was made from it.
    """
    from longtail.methods.pretraining import WEIGHTS

    further = []
    if stage == "prepare":
        further = [own_files_digest(content)]
        if content.get("pretrain", {}).get("method") == WEIGHTS:
            further += [WEIGHTS, *_sizing_backbone(content)]
    path = _weights_file(content) if stage == "pretrain" else None
    if path is not None:
        further.append(weights_digest(path))
    return " ".join(filter(None, [sources.digest(entry_modules(stage, argument, content)), *further]))


def entry_modules(stage: str, argument: str, content: Mapping[str, Any]) -> list[str]:
    """The modules from which all code that a stage reaches can be found.

    They are the stage's own module, and those that it imports by name for these parameters: chosen methods, and for
    ``evaluate`` the registered rows of the table.
    """
    from longtail.augment.policies import POLICIES
    from longtail.methods.heads import HEADS
    from longtail.methods.pretraining import WEIGHTS
    from longtail.methods.stage_methods import STAGE_METHODS

    modules = [f"stages.{stage}"]
    for group in _groups_of(stage, argument, content):
        modules += group.modules()
    if stage == "pretrain" and len(modules) > 1:
        chosen = content["pretrain"]["method"]
        modules.append("stages.pretrain_weights" if chosen == WEIGHTS else "stages.pretrain_training")
    if stage == "prepare" and _sizing_backbone(content):
        modules.append("stages.network_size")
    if stage == "extract_features" and not _has_images(content):
        modules.append("stages.own_features")
    if stage == "extract_features" and content.get("train", {}).get("frozen"):
        if content.get("pretrain", {}).get("head") != "file":  # which is kept
            modules.append("stages.base_head")
        if content["train"].get("views"):
            modules += [POLICIES.module(name) for name in POLICIES.available()]
    if stage == "rebalance":
        modules.append(HEADS.module(argument))
        if content.get(argument, {}).get("mode") == "online":  # with the backbone's train policy
            modules += ["stages.online_heads", *(POLICIES.module(name) for name in POLICIES.available())]
    if stage == "evaluate":
        modules += [HEADS.module(name) for name in HEADS.available()]
        modules += [STAGE_METHODS.module(name) for name in STAGE_METHODS.available()]
        modules += [entry.tables for entry in STAGE_METHODS.entries().values()]
    return modules


def _has_images(content: Mapping[str, Any]) -> bool:
    from longtail.data.params import DatasetParams
    from longtail.data.sources import SOURCES

    return SOURCES.get(content.get("dataset", DatasetParams().dataset)).has_images


def _sizing_backbone(content: Mapping[str, Any]) -> list[str]:
    """The backbone whose size ``prepare`` gives to the images; none if something else decides."""
    from longtail.core.params import bind
    from longtail.methods.objectives import OBJECTIVES
    from longtail.methods.objectives.params import TrainParams
    from longtail.methods.pretraining import WEIGHTS

    if content.get("pretrain", {}).get("method") != WEIGHTS or not _dataset(content).files_at_network_size:
        return []
    return [bind(TrainParams, content.get("train", {}), OBJECTIVES.available()).backbone]


def _dataset(content: Mapping[str, Any]) -> "DatasetParams":
    from longtail.core.params import bind, keys_of
    from longtail.data.params import DatasetParams

    return bind(DatasetParams, {name: value for name, value in content.items() if name in keys_of(DatasetParams)})


def _groups_of(stage: str, argument: str, content: Mapping[str, Any]) -> list[Any]:
    """The groups of parameters whose values choose modules that the stage imports."""
    from longtail.core.params import bind
    from longtail.methods.ipdpp.params import IpdppParams
    from longtail.methods.objectives import OBJECTIVES
    from longtail.methods.objectives.params import TrainParams
    from longtail.methods.pretraining import METHODS
    from longtail.methods.pretraining.params import PretrainParams

    if stage == "prepare":
        return [_dataset(content)]
    if stage == "train_backbone":
        return [bind(TrainParams, content.get("train", {}), OBJECTIVES.available())]
    if stage == "pretrain":
        return [bind(PretrainParams, content.get("pretrain", {}), METHODS.available())]
    if stage == "finetune_ipdpp":
        return [bind(IpdppParams, content.get("ipdpp", {}))]
    return []


def _weights_file(content: Mapping[str, Any]) -> Path | None:
    from longtail.core.params import bind
    from longtail.methods.pretraining import METHODS
    from longtail.methods.pretraining.params import PretrainParams

    return bind(PretrainParams, content.get("pretrain", {}), METHODS.available()).file


if __name__ == "__main__":
    run(main)
