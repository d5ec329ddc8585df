"""Print the table of the last ``evaluate``: ``python -m stages.table``. Not a node of the DAG."""

from longtail.artifacts.tables import read_json
from longtail.evaluation.report import format_table, read_size, read_uncalibrated
from stages.context import run
from stages.evaluate import table_rows
from stages.paths import METRICS


def main() -> None:
    summary = read_json(METRICS / "summary.json", made_by="evaluate")
    order = [row.name for row in table_rows() if row.name in summary]
    ordered = {name: summary[name] for name in [*order, *(name for name in summary if name not in order)]}
    print(format_table(ordered, read_uncalibrated(METRICS / "details.json"), read_size(METRICS / "selection.json")))


if __name__ == "__main__":
    run(main)
