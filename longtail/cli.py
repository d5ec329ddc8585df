"""The command ``longtail``: runs a command of the project in the current folder.

``longtail fit FOLDER`` is ``python -m stages.fit FOLDER`` with the Python that longtail is installed in.
"""

import os
import sys
from pathlib import Path

COMMANDS = {
    "fit": "all heads on your own images, from pretrained weights: FOLDER with train/CLASS and test/CLASS",
    "recipe": "lay published settings over params.yaml; without a name, list them",
    "study": "diagnostics over many runs: toy examples, similar classes, architectures",
    "table": "print the table of the last run",
}


def main() -> None:
    """Run the command, and exit with its status."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in COMMANDS:
        wanted = arguments and arguments[0] not in ("-h", "--help")
        lines = [f"  {name:<8}{meaning}" for name, meaning in COMMANDS.items()]
        print("\n".join(["usage: longtail COMMAND ...", "", *lines]), file=sys.stderr if wanted else sys.stdout)
        sys.exit(f"longtail: the command must be one of {', '.join(COMMANDS)}, got {arguments[0]}" if wanted else 0)
    command, *rest = arguments
    if not Path("stages", f"{command}.py").is_file() or not Path("dvc.yaml").is_file():
        sys.exit(f"longtail {command} must run in a checkout of the project, got {Path.cwd()}")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", f"stages.{command}", *rest])  # noqa: S606  signals reach it alone
