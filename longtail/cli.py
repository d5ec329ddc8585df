"""The command ``longtail``: runs a command of the project in the current folder.

``longtail fit FOLDER`` is ``python -m stages.fit FOLDER`` with the Python that longtail is installed in.
"""

import subprocess
import sys
from pathlib import Path

COMMANDS = {
    "fit": "all heads on your own images, from pretrained weights: FOLDER with train/CLASS and test/CLASS",
    "recipe": "lay published settings over params.yaml; without a name, list them",
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
    sys.exit(subprocess.run([sys.executable, "-m", f"stages.{command}", *rest], check=False).returncode)
