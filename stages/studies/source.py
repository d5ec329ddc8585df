"""What a study has to know of its dataset: class names and the number of images. It prepares a copy of its own."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longtail.core.params import keys_of
from longtail.data.manifest import Manifest, read_manifest
from longtail.data.params import DatasetParams, SplitParams
from longtail.data.splits import split_dataset
from longtail.methods.pretraining import WEIGHTS
from stages.paths import PREPARED, RAW, SCRATCH


@dataclass(frozen=True)
class Source:
    """A prepared dataset.

    Attributes:
        folder: its ``data/prepared``.
        manifest: what it holds.
        params: the parameters of the study.
    """

    folder: Path
    manifest: Manifest
    params: Mapping[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """(C,)."""
        return self.manifest.class_names

    def split_params(self, **changes: Any) -> SplitParams:
        """The parameters of the study's split, with some changed."""
        own = {name: self.params[name] for name in keys_of(SplitParams) if name in self.params}
        return SplitParams(**own | changes)

    def smallest_pool(self, split_seed: int) -> int:
        """Training images of the smallest class, once test images are taken off and nothing is held out."""
        params = self.split_params(imb_type="natural", val_per_class=0, split_seed=split_seed)
        train = split_dataset(self.manifest, params).train
        return int(np.bincount(self.manifest.labels[train], minlength=len(self.class_names)).min())


def prepare(params: Mapping[str, Any]) -> Source:
    """Prepare the dataset of a study beside the workspace, once for these parameters and files."""
    chosen = {name: params[name] for name in keys_of(DatasetParams) if name in params}
    weights = params.get("pretrain", {}).get("method") == WEIGHTS
    identity = json.dumps([chosen, weights and params.get("train", {}).get("backbone")], sort_keys=True)
    name = f"data-{hashlib.sha256(identity.encode()).hexdigest()[:10]}-"
    folder = (SCRATCH / "studies" / (name + _listing(params.get("data_root"))[:10])).absolute()
    if not (folder / PREPARED / "dataset.json").is_file():
        for older in folder.parent.glob(f"{name}*"):  # of other files, or half-written
            shutil.rmtree(older)
        folder.mkdir(parents=True)
        if params.get("data_root") is None:
            RAW.mkdir(parents=True, exist_ok=True)
            (folder / RAW.parent).mkdir(exist_ok=True)
            (folder / RAW).symlink_to(RAW.absolute())
        (folder / "params.yaml").write_text(json.dumps(dict(params)), encoding="utf-8")  # JSON is YAML
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        ended = subprocess.run([sys.executable, "-m", "stages.prepare"], cwd=folder, env=environment, check=False)
        if ended.returncode:
            sys.exit(ended.returncode)  # its sentence is above
    return Source(folder / PREPARED, read_manifest(folder / PREPARED), params)


def _listing(root: str | None) -> str:
    """Digest of names, sizes and times of the files below ``root``."""
    total = hashlib.sha256()
    for folder, folders, files in os.walk(root) if root is not None else ():
        folders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            state = path.stat() if path.exists() else None
            total.update(f"{path} {state and (state.st_size, state.st_mtime_ns)}\n".encode(errors="surrogateescape"))
    return total.hexdigest()
