"""What every method with a stage of its own promises: its rows, its group, and the tables about it."""

import importlib
import inspect
import subprocess
import sys

import pandas as pd
import pytest

from longtail.core.params import Group
from longtail.core.yaml import read_yaml
from longtail.evaluation.shots import Shots
from longtail.methods.heads import HEADS
from longtail.methods.stage_methods import STAGE_METHODS, MethodTables
from tests.imports import ROOT

EACH = pytest.mark.parametrize(("name", "entry"), STAGE_METHODS.entries().items(), ids=STAGE_METHODS.names())
FUNCTIONS = [name for name, value in vars(MethodTables).items() if inspect.isfunction(value) and name[0] != "_"]


@EACH
def test_group_has_the_name_of_the_package(name, entry):
    assert issubclass(entry.params, Group)
    assert entry.params.path == entry.params().path == name
    assert entry.params().enabled is True, "a switch that is on by default"


@EACH
def test_rows_end_with_the_method_itself_and_belong_to_nobody_else(name, entry):
    assert entry.rows[-1] == name
    others = [row for other in STAGE_METHODS.entries().values() if other is not entry for row in other.rows]
    assert not set(entry.rows) & {*others, *HEADS.names()}
    assert len(set(entry.rows)) == len(entry.rows)


@EACH
def test_stage_is_a_module_and_a_node_of_the_dag_that_writes_rows_and_artifact(name, entry):
    assert callable(importlib.import_module(f"stages.{entry.stage}").main)
    outputs = str(read_yaml(ROOT / "dvc.yaml")["stages"][entry.stage]["outs"])
    for path in (f"models/{entry.artifact}", *(f"metrics/predictions/{row}.h5" for row in entry.rows)):
        assert path in outputs, path


@EACH
def test_tables_module_offers_the_protocol(name, entry):
    assert FUNCTIONS == ["read", "matches", "plot_tables", "diagnostics"]
    module = entry.load_tables()
    for function in FUNCTIONS:
        expected = len(inspect.signature(getattr(MethodTables, function)).parameters) - 1  # without self
        assert len(inspect.signature(getattr(module, function)).parameters) == expected, function


@EACH
def test_plot_tables_without_an_artifact_have_columns_and_no_rows(name, entry):
    """A method that was not run leaves its plots empty, so that DVC leaves them out."""
    tables = entry.load_tables().plot_tables(None, None, ["ant", "bee"], Shots())
    assert tables
    plots = str(read_yaml(ROOT / "metrics" / "dvc.yaml")["plots"])
    for plot, table in tables.items():
        assert isinstance(table, pd.DataFrame) and len(table) == 0 and len(table.columns) > 0, plot
        assert not {"rev", "filename", "field"} & set(table.columns), plot
        assert f"{plot}.csv" in plots, plot


@EACH
def test_plot_names_are_its_own(name, entry):
    own = set(entry.load_tables().plot_tables(None, None, [], Shots()))
    for other in STAGE_METHODS.entries().values():
        if other is not entry:
            assert not own & set(other.load_tables().plot_tables(None, None, [], Shots()))


@EACH
def test_entry_and_tables_import_no_torch(name, entry):
    code = f"import sys, {STAGE_METHODS.module(name)}, {entry.tables}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
