"""``longtail fit``: what it changes in params.yaml, and what it refuses before any work."""

import shutil
import subprocess
import sys

import pytest

from longtail import cli
from longtail.core.errors import ConfigError
from longtail.core.yaml import read_yaml
from longtail.params import check_params
from stages import fit
from tests.imports import ROOT


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "a.safetensors").touch()
    return tmp_path


def test_recipe_is_laid_over_params_with_the_folder_and_the_options(folder, monkeypatch):
    monkeypatch.setattr(fit.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0))
    monkeypatch.setattr(fit.os, "cpu_count", lambda: 4)
    fit.main(
        ["images", "--weights", "a.safetensors", "--image-size", "160", "--set", "crt.epochs=3", "--set", "seed=4"]
    )
    params = read_yaml(folder / "params.yaml")
    check_params(params)
    assert params["data_root"] == str(folder / "images")
    assert params["pretrain"]["weights"] == str(folder / "a.safetensors")
    assert (params["image_size"], params["crt"]["epochs"], params["seed"]) == (160, 3, 4)
    assert params["train"]["frozen"] and not params["dlsa"]["enabled"] and not params["ipdpp"]["enabled"]
    assert params["runtime"]["threads"] == 3
    assert (params["imb_type"], params["val_per_class"]) == ("natural", 0)


def test_show_changes_nothing_and_runs_nothing(folder, monkeypatch, capsys):
    monkeypatch.setattr(fit.subprocess, "run", lambda *a, **k: pytest.fail("something ran"))
    before = (folder / "params.yaml").read_bytes()
    fit.main(["images", "--backbone", "resnet50", "--show"])
    assert (folder / "params.yaml").read_bytes() == before
    assert "train.backbone: resnet8 -> resnet50" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "FOLDER must be a folder with train/CLASS and test/CLASS, got nothing"),
        (["images", "--weights", "b.pth"], "--weights must be an existing file, got b.pth"),
        (["images", "--set", "seed"], "--set must be KEY=VALUE, such as imb_type=exp, got seed"),
        (["images", "--set", "sed=3"], "sed is not a key"),
        (["images", "--set", "data_root.x=1"], "--set must name a key of params.yaml, got data_root.x"),
        (["images", "--backbone", "resnet999"], "train.backbone must be one of"),
    ],
)
def test_mistakes_are_refused_before_any_work(folder, monkeypatch, arguments, message):
    monkeypatch.setattr(fit.subprocess, "run", lambda *a, **k: pytest.fail("something ran"))
    before = (folder / "params.yaml").read_bytes()
    with pytest.raises(ConfigError) as caught:
        fit.main(arguments)
    assert message in str(caught.value)
    assert (folder / "params.yaml").read_bytes() == before


def test_command_lists_its_commands_and_refuses_others(folder, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["longtail", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code

    assert call("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)
    assert call("fly") == "longtail: the command must be one of fit, recipe, study, table, got fly"
    assert "must run in a checkout of the project" in call("fit", "images")


def test_val_part_of_the_folder_is_accepted(folder):
    for part in ("train", "val", "test"):
        (folder / "images" / part / "a").mkdir(parents=True)
        (folder / "images" / part / "a" / "0.jpg").touch()
    fit.main(["images", "--show"])
