"""All methods on long-tailed digits over several seeds: ``python -m benchmarks.digits [--seeds 3] [KEY=VALUE ...]``.

Each seed is a full run of the pipeline with the defaults of params.yaml. Split and training use the same seed. --bns
adds a second run on the same split, which pretrains with BNS and freezes the backbone. Its joint head is the linear
probe of BNS.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import METHODS, machine, run_pipeline

COLUMNS = ("all", "many", "medium", "few", "macro", "ece")
BNS = ["pretrain.method=bns", "train.trainable=head"]
ON_BNS = {"joint": "linear probe on BNS", "ipdpp_uniform": "ipdpp_uniform on BNS", "ipdpp": "ipdpp on BNS"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bns", action="store_true")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="overrides of params.yaml")
    arguments = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            settings = [*arguments.settings, f"seed={seed}", f"split_seed={seed}"]
            runs.append(run_pipeline(Path(folder) / str(seed), settings)["summary"])
            if arguments.bns:
                summary = run_pipeline(Path(folder) / f"{seed}bns", [*settings, *BNS])["summary"]
                runs[-1] |= {ON_BNS[method]: summary[method] for method in ON_BNS}
    print(f"{machine('torch', 'scikit-learn')}; n = {len(runs)} seeds, mean ± standard deviation\n")
    print("| method | " + " | ".join(COLUMNS) + " |\n|---" * 1 + "|---" * len(COLUMNS) + "|")
    methods = [*METHODS, *(ON_BNS.values() if arguments.bns else ())]
    for method in methods:
        cells = [np.array([run[method][column] for run in runs]) for column in COLUMNS]
        print(f"| {method} | " + " | ".join(f"{cell.mean():.1f} ± {cell.std(ddof=1):.1f}" for cell in cells) + " |")
    print("\ngain over joint for each seed (few / macro):\n")
    for method in methods[1:]:
        gains = [f"{run[method][k] - run['joint'][k]:+.1f}" for run in runs for k in ("few", "macro")]
        print(f"- {method}: " + ", ".join(" / ".join(gains[i : i + 2]) for i in range(0, len(gains), 2)))


if __name__ == "__main__":
    main()
