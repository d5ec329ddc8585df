"""The benchmark scripts at toy size: they run, both sides agree, and a table comes out. The times mean nothing here."""

import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import subprocess
import sys
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from benchmarks import (
    augmentation,
    bns,
    cifar_lt,
    common,
    dlsa,
    dlsa_flow,
    dpp,
    features,
    fsgl,
    heads,
    ipdpp,
    objectives,
    prepare,
    real_features,
    simclr,
)
from benchmarks.common import METHODS, write_params
from benchmarks.timing import alternate, ratios, spread, table
from longtail.core.yaml import read_yaml
from longtail.methods.heads import HEADS
from longtail.methods.heads.base import LinearHead
from longtail.methods.ipdpp.params import IpdppParams
from longtail.methods.objectives.params import TrainParams
from longtail.methods.pretraining.bns import BNSParams
from longtail.methods.pretraining.params import PretrainParams
from longtail.params import Params, check_params
from stages.recipe import flat, names, read_recipe
from tests.synthetic import hierarchical_features

CLASSES = ("bird", "cat", "dog")
FORKS = multiprocessing.get_context("fork")
TINY = ["--rows", "400", "--dim", "8", "--classes", "10", "--batch-size", "64", "--repeats", "2", "--threads", "1"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages run inside this process, which has torch already; that they run as processes, other tests show."""

    def run_stage(folder: Path, *command: str) -> float:
        start = time.perf_counter()
        with contextlib.chdir(folder), contextlib.redirect_stdout(sys.stderr):
            importlib.import_module(f"stages.{command[0]}").main(*command[1:])
        return time.perf_counter() - start

    for module in (common, cifar_lt, dlsa, ipdpp, objectives):
        monkeypatch.setattr(module, "run_stage", run_stage)


@pytest.fixture
def in_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides of a benchmark run in forks of this process, which has torch already."""

    def side(module: str, words: list[str], output: str) -> None:
        with open(output, "w") as file, contextlib.redirect_stdout(file):
            importlib.import_module(module).main(words)

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
        assert command[:2] == [sys.executable, "-m"] and options["check"]
        with tempfile.NamedTemporaryFile() as output:
            process = FORKS.Process(target=side, args=(command[2], command[3:], output.name))
            process.start()
            process.join()
            assert process.exitcode == 0
            return subprocess.CompletedProcess(command, 0, output.read().decode())

    for module in (bns, dlsa_flow):
        monkeypatch.setattr(module, "subprocess", argparse.Namespace(run=run))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of plain colors with noise, laid out as the CIFAR archives are, with a file beside the images."""
    path = tmp_path_factory.mktemp("archive") / "toy.tar.gz"
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "toy/classes.tsv", b"0\tbird\n")
        for part, count in (("test", 4), ("train", 45)):
            for label, name in enumerate(CLASSES):
                for number in range(count):
                    pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
                    pixels[..., label] += 150
                    buffer = io.BytesIO()
                    Image.fromarray(pixels).save(buffer, "JPEG")
                    add(tar, f"toy/{part}/{name}/{number:04d}.jpg", buffer.getvalue())
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def test_stages_of_benchmarks_are_processes_of_their_own_in_the_folder(tmp_path: Path) -> None:
    write_params(tmp_path, [])
    assert common.run_stage(tmp_path, "prepare") > 0
    assert (tmp_path / "data/prepared").is_dir()


def read_params(folder: Path) -> Params:
    return check_params(read_yaml(folder / "params.yaml"))


def rows_of(output: str, header: str) -> list[list[str]]:
    """The cells of the Markdown table whose header starts with ``header``."""
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {header} "))
    body = lines[start + 2 :]
    end = next((i for i, line in enumerate(body) if not line.startswith("|")), len(body))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body[:end]]


def test_features_benchmark_agrees_with_direct_code_and_prints_a_table(capsys: pytest.CaptureFixture) -> None:
    features.main(TINY)
    rows = rows_of(capsys.readouterr().out, "work")
    assert [row[0].split(";")[0] for row in rows] == [
        "tau grid of 21",
        "NCM fit + predict",
        "NCM fit + predict",
        "NCM fit + predict of 20 rows",
        "cRT, one epoch",
        "cRT, one epoch",
    ]
    assert all(float(row[4]) <= 1e-5 for row in rows)


@pytest.mark.parametrize("method", ["direct_tau_grid", "direct_ncm", "direct_crt_epoch"])
def test_features_benchmark_stops_where_results_differ(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(features, method)

    def wrong(*arguments, **options):  # type: ignore[no-untyped-def]
        result = right(*arguments, **options)
        (result[0] if isinstance(result, tuple) else result)[0, 0] += 1e-3
        return result

    monkeypatch.setattr(features, method, wrong)
    with pytest.raises(AssertionError, match="results differ"):
        features.main(TINY)


def test_class_accuracies_may_differ_only_where_two_scores_tie() -> None:
    inputs = features.synthetic(400, 8, 10, 64, 0)
    exact = features.direct_tau_grid(inputs)
    other = exact.copy()
    other[3, 2] += 1 / features.VAL_PER_CLASS
    with pytest.raises(AssertionError, match="results differ"):
        features.tau_difference(inputs, other, exact)
    weight = inputs.head.weight.copy()
    weight[1] = weight[2]  # every row ties between the two
    tied = features.replace(inputs, head=LinearHead(weight))
    assert features.tau_difference(tied, other, exact) == 0


def test_synthetic_class_counts_have_the_size_and_ends_of_imagenet_lt() -> None:
    counts = features.class_counts(115_846, 1000)
    assert abs(counts.sum() - 115_846) < 100
    assert (counts[0], counts[-1]) == (1280, 5)
    assert (np.diff(counts) <= 0).all()


def test_direct_class_aware_draws_hold_every_class_once_a_turn() -> None:
    y = np.repeat(np.arange(3), [5, 2, 1])
    blocks = y[list(features.CyclicSampler(y, 24))].reshape(-1, features.SAMPLES_PER_CLASS)
    assert (blocks == blocks[:, :1]).all()
    assert (np.sort(blocks[:, 0].reshape(-1, 3), axis=1) == np.arange(3)).all()


def test_prepare_benchmark_prints_its_table(capsys: pytest.CaptureFixture) -> None:
    prepare.main(["--images", "4", "--repeats", "1"])
    output = capsys.readouterr().out
    assert [row[:2] for row in rows_of(output, "files")] == [["500 x 375 JPEG", "paths"], ["32 x 32 PNG", "memory"]]
    assert "peak memory" in output and "held in memory" not in output


def test_augmentation_benchmark_agrees_with_torchvision_and_prints_its_tables(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    augmentation.main(
        ["--images", "40", "--repeats", "1", "--threads", "1", "--workers", "0", "--policy", "randaugment"]
    )
    assert "randaugment, 40 images" in capsys.readouterr().out
    sizes = ["--images", "200", "--batch-size", "100", "--repeats", "1", "--threads", "1", "--workers", "1"]
    augmentation.main([*sizes, "--backbone", "resnet8", "--epochs", "1"])
    output = capsys.readouterr().out
    assert "Augmented images on cpu" in output and "Training resnet8 on cpu" in output
    assert [row[0] for row in rows_of(output, "side")] == ["longtail", "torchvision v1", "torchvision v2"]


def test_augmentation_benchmark_stops_where_pixels_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = augmentation.Bench(8, 8, 0, torch.device("cpu"))
    monkeypatch.setattr(augmentation, "MEAN", (0.5, 0.5, 0.5))
    with pytest.raises(AssertionError, match="pixels differ"):
        bench.check()


def test_simclr_benchmark_agrees_with_torchvision_and_prints_its_table(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    simclr.main(["--images", "64", "--batch-size", "32", "--repeats", "1", "--threads", "1", "--workers", "1"])
    sides = [row[0] for row in rows_of(capsys.readouterr().out, "side")]
    assert sides == ["longtail", "torchvision v1", "torchvision v2, PIL", "torchvision v2, tensors"]


@pytest.mark.usefixtures("in_forks")
def test_bns_benchmark_agrees_with_the_broadcast_form_and_prints_its_table(capsys: pytest.CaptureFixture) -> None:
    bns.main(["--batch", "32", "--repeats", "1", "--seconds", "0.1", "--threads", "1"])
    output = capsys.readouterr().out
    assert [row[0] for row in rows_of(output, "measure")] == ["seconds per step", "peak memory per step, MiB"]
    assert "The values differ by" in output


@pytest.mark.usefixtures("in_process")
def test_cifar_benchmark_runs_every_stage_on_a_small_archive(archive: Path, capfd: pytest.CaptureFixture) -> None:
    quick = ["train.backbone=resnet8", "train.epochs=1", "train.warmup_epochs=0", "ipdpp.epochs=1", "dlsa.epochs=1"]
    quick += ["ipdpp.warmup_epochs=0", "dlsa.flow_epochs=1", "pretrain.bns.projector_hidden=16"]
    cifar_lt.main(["--archive", str(archive), "--smoke", "--bns-epochs", "1", "--set", *quick])
    output = capfd.readouterr().out
    assert "SMOKE" in output and "Published" not in output and "BNS, 1 epochs, and a linear probe" in output
    assert [row[0] for row in rows_of(output, "method")] == [*METHODS]
    assert {"- pretrain", "- finetune_ipdpp", "images/s of pretrain"} <= {row[0] for row in rows_of(output, "cost")}


@pytest.mark.usefixtures("in_process")
def test_ipdpp_benchmark_compares_variants_with_their_controls(capfd: pytest.CaptureFixture, tmp_path: Path) -> None:
    quick = ["train.epochs=1", "ipdpp.epochs=2", "ipdpp.warmup_epochs=0", "runtime.device=cpu"]
    ipdpp.main(["--repeats", "1", "--work", str(tmp_path), "--only", "encoder", *quick])
    rows = rows_of(capfd.readouterr().out, "variant")
    assert [row[0] for row in rows] == ["encoder frozen"]
    control, method, gain = (float(cell.split(" ±")[0]) for cell in rows[0][1:4])
    assert gain == pytest.approx(method - control, abs=0.02)


@pytest.mark.usefixtures("in_process")
def test_objectives_benchmark_has_a_row_for_each_case(capfd: pytest.CaptureFixture) -> None:
    quick = ["train.epochs=1", "runtime.device=cpu"]
    chosen = ["--objectives", "ldam", "paco", "--rules", "drw", "--mixes", "--starts"]
    objectives.main(["--seeds", "1", *chosen, "--set", *quick])
    (row,) = rows_of(capfd.readouterr().out, "trained by")
    assert row[0] == "ldam, drw" and 0 <= float(row[1]) <= 100


def test_objectives_benchmark_asks_for_what_each_row_says() -> None:
    found = objectives.cases(["ce", "fsgl"], ["none", "resample", "drw"], ["cutmix"], ["moco"])
    assert found == {
        "ce": ["train.objective=ce", "train.rule=none"],
        "ce, resample": ["train.objective=ce", "train.rule=resample"],
        "ce, drw": ["train.objective=ce", "train.rule=drw"],
        "fsgl": ["train.objective=fsgl", "train.rule=none"],
        "fsgl, resample": ["train.objective=fsgl", "train.rule=resample"],
        "ce, cutmix": ["train.mix=cutmix"],
        "ce from moco": ["pretrain.method=moco"],
        "linear probe on moco": ["pretrain.method=moco", "train.trainable=head"],
    }


def test_fsgl_benchmark_compares_equal_steps(capsys: pytest.CaptureFixture) -> None:
    fsgl.main(["--backbone", "resnet8", "--classes", "7", "--batch", "4", "--repeats", "1", "--threads", "1"])
    output = capsys.readouterr().out
    assert [row[0] for row in rows_of(output, "seconds for")] == ["one step", "the factors of one view"]
    assert "After one step the weights differ by at most" in output


def test_fsgl_benchmark_refuses_another_result(monkeypatch: pytest.MonkeyPatch) -> None:
    released = fsgl.Released.scaling
    monkeypatch.setattr(fsgl.Released, "scaling", lambda self, mixed, share: 1.1 * released(self, mixed, share))
    with pytest.raises(AssertionError):
        fsgl.main(["--backbone", "resnet8", "--classes", "7", "--batch", "4", "--repeats", "1", "--threads", "1"])


def test_cifar_recipe_of_bns_is_the_published_one(tmp_path: Path) -> None:
    write_params(tmp_path, [*cifar_lt.recipe(tmp_path, 100.0, 0), *cifar_lt.bns_recipe(100, 1000)])
    params = read_params(tmp_path)
    pretrain, train, ipdpp = (params.bound[name] for name in ("pretrain", "train", "ipdpp"))
    assert isinstance(pretrain, PretrainParams) and isinstance(train, TrainParams) and isinstance(ipdpp, IpdppParams)
    own = params.own["pretrain"]
    assert isinstance(own, BNSParams)
    assert (train.backbone, pretrain.epochs, pretrain.batch_size, pretrain.lr) == ("resnet34", 1000, 512, 2e-3)
    assert (own.temperature, pretrain.warmup_epochs, pretrain.weight_decay) == (0.5, 20, 0.05)
    assert (own.projector_hidden, own.projector_dim) == (2048, 128)
    assert pretrain.jitter_strength == 2.0
    assert (train.per_class, train.epochs, train.batch_size, train.lr) == (50, 100, 64, 2.5e-4)
    assert (ipdpp.k, ipdpp.epochs, ipdpp.reselect_every, ipdpp.lr) == ("10*n_min", 100, 20, 2.5e-4)


@pytest.mark.parametrize("name", [name for name in names() if name.startswith("cifar")])
def test_cifar_benchmark_trains_as_the_recipe_says_or_shorter(tmp_path: Path, name: str) -> None:
    found = []
    for epochs in (None, 3):
        write_params(tmp_path, cifar_lt.recipe(tmp_path, 50.0, 0, name, epochs))
        found.append((read_yaml(tmp_path / "params.yaml"), read_params(tmp_path)))
    (full, _), (_, short) = found
    assert (full["dataset"], full["imb_factor"], full["val_per_class"]) == ("image_folder", 50.0, 0)
    wanted = dict(flat(read_recipe(name)["params"]["train"]))
    assert {key: value for key, value in flat(full["train"]) if key in wanted} == wanted
    pretrain, train = short.bound["pretrain"], short.bound["train"]
    assert isinstance(pretrain, PretrainParams) and isinstance(train, TrainParams)
    assert train.epochs == 3 and train.warmup <= 3
    assert pretrain.method == "none" or (pretrain.epochs == 3 and pretrain.warmup <= 3)
    assert train.drw_epoch == "auto", "80 % of the epochs, however few"
    assert train.objective == full["train"]["objective"]


def test_cifar_benchmark_unpacks_all_images_or_a_few(archive: Path, tmp_path: Path) -> None:
    cifar_lt.unpack(archive, tmp_path / "all", smoke=False)
    cifar_lt.unpack(archive, tmp_path / "few", smoke=True)
    assert len(list((tmp_path / "all").rglob("*.*"))) == 3 * (4 + 45)
    assert len(list((tmp_path / "few").rglob("*.*"))) == 3 * (4 + cifar_lt.SMOKE_TRAIN)


def test_cifar_benchmark_refuses_another_number_of_classes(archive: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        cifar_lt.main(["--archive", str(archive), "--classes", "10"])
    assert ", got 10" in capsys.readouterr().err


def test_cifar_benchmark_refuses_the_recipe_of_another_dataset(archive: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        cifar_lt.main(["--archive", str(archive), "--classes", "100", "--recipe", "cifar10_lt_ce"])
    assert "--classes must be 10 with --recipe cifar10_lt_ce, got 100" in capsys.readouterr().err


def test_cifar_report_gives_mean_and_spread_over_seeds(capsys: pytest.CaptureFixture) -> None:
    def run(accuracy: float) -> dict:
        summary = {method: {"all": accuracy, "macro": accuracy, "ece": 1.0} for method in METHODS}
        cost = {"train_backbone": {"parameters": 5, "macs": 6, "seconds": 2.0, "epochs": 4, "peak_memory_bytes": 2**20}}
        return {"summary": summary, "seconds": {"prepare": 1.0}, "cost": cost, "tau": 0.5, "images": 10_847}

    options = argparse.Namespace(seeds=[0, 1], smoke=False, bns_epochs=None, recipe="cifar100_lt_ce")
    settings = ["train.batch_size=128", "train.drop_last=true"]
    cifar_lt.report([run(38.0), run(40.0)], options, 100, 100.0, "cifar100_lt_ce, 200 epochs", settings)
    output = capsys.readouterr().out
    assert "the best head 40.5-43.5" in output
    assert rows_of(output, "method")[0][:3] == ["joint", "39.0 ± 1.4", "-"]
    assert ["images/s of train_backbone", "21,504.0 ± 0.0"] in rows_of(output, "cost")
    options.recipe, kept = "cifar100_lt50_fsgl", ["train.batch_size=64", "train.drop_last=false"]
    for imb_factor, published in ((50.0, True), (100.0, False)):
        cifar_lt.report([run(38.0)], options, 100, imb_factor, "cifar100_lt50_fsgl, 200 epochs", kept)
        output = capsys.readouterr().out
        assert ("63.4" in output) is published
    assert ["images/s of train_backbone", "21,694.0"] in rows_of(output, "cost")


def test_timing_runs_tasks_in_turn_and_keeps_the_first_result() -> None:
    calls: list[str] = []

    def note(name: str) -> int:
        calls.append(name)
        return len(calls)

    first, second = alternate(2, partial(note, "a"), partial(note, "b"))
    assert calls == ["a", "b", "a", "b"]
    assert (first.result, second.result) == (1, 2)
    assert len(first.seconds) == len(second.seconds) == 2


def test_timing_gives_ratios_by_repetition_and_their_spread() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    assert spread([3.0, 1.0, 2.0]) == "2 (1-3)"
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def flags(values: dict[str, int]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


@pytest.mark.usefixtures("in_forks")
def test_flow_benchmark_agrees_with_the_direct_form_and_prints_a_table(capsys: pytest.CaptureFixture) -> None:
    sizes = {"batch": 64, "clusters": 20, "width": 32, "steps": 2, "repeats": 1, "threads": 1}
    dlsa_flow.main(flags(sizes))
    rows = rows_of(capsys.readouterr().out, "measure")
    assert [row[0] for row in rows] == ["seconds per step", "peak memory per step, MiB"]
    assert all(cell for row in rows for cell in row)


def test_flow_benchmark_stops_where_the_sides_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = iter([1.0, 1.1])

    def fake(*arguments, **options):  # type: ignore[no-untyped-def]
        return subprocess.CompletedProcess([], 0, f'{{"seconds": [1.0], "bytes": 1, "losses": [{next(runs)}]}}')

    monkeypatch.setattr(dlsa_flow, "subprocess", argparse.Namespace(run=fake))
    with pytest.raises(SystemExit, match=r"the losses of the two sides differ by 9\.1e-02"):
        dlsa_flow.main(["--repeats", "1"])


@pytest.fixture
def feature_rows(tmp_path: Path) -> str:
    stream = np.random.default_rng(0)
    y, yt = np.repeat([0, 1, 2], [30, 15, 6]), np.repeat([0, 1, 2], 10)
    X, Xt = (np.eye(3, 5)[k] * 4 + stream.normal(size=(len(k), 5)) for k in (y, yt))
    np.savez(tmp_path / "a.npz", X=X, y=y, Xt=Xt, yt=yt)
    return str(tmp_path / "a.npz")


def test_heads_benchmark_has_a_row_per_head(feature_rows: str, capsys: pytest.CaptureFixture) -> None:
    heads.main([feature_rows, "--seeds", "2"])
    rows = rows_of(capsys.readouterr().out, "head")
    assert [row[0] for row in rows] == HEADS.names()
    assert all("±" in row[2] and float(row[2].split()[0]) > 60 for row in rows)


def test_heads_benchmark_takes_other_parameters(feature_rows: str, capsys: pytest.CaptureFixture) -> None:
    one = [feature_rows, "--heads", "lda", "softmax_regression"]
    heads.main(one)
    usual = rows_of(capsys.readouterr().out, "head")
    heads.main([*one, "--set", "softmax_regression.prior=train", "--set", "softmax_regression.l2=100"])
    output = capsys.readouterr().out
    changed = rows_of(output, "head")
    assert changed[0][:-1] == usual[0][:-1] and changed[1][:-1] != usual[1][:-1]
    assert "set: softmax_regression.prior=train softmax_regression.l2=100; threads: 1" in output


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lda.correction=2", "lda.correction must be at least 0 and at most 1, got 2"),
        ("lda.corection=0", "did you mean lda.correction?"),
        ("tau.value=1", "--set must name one of the heads lda, lws, got tau"),
        ("lws.bn_mode=train", "lws.bn_mode must be eval, its default"),
        ("lws.mode=online", "lws.mode must be cached, the only one here, got online"),
    ],
)
def test_heads_benchmark_refuses_what_the_parameters_refuse(
    setting: str, message: str, feature_rows: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        heads.main([feature_rows, "--heads", "lda", "lws", "--set", "lda.correction=0", "--set", setting])
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_flow_benchmark_trains_the_whole_chain(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "counts.json").write_text(json.dumps({"ImageNet_LT_train": [40] * 100 + [5] * 900}))
    sizes = {"width": 4, "batch": 1024, "clusters": 5, "epochs": 1, "head-epochs": 1, "threads": 1}
    dlsa_flow.main(["--full", "--counts", str(tmp_path / "counts.json"), *flags(sizes)])
    output = capsys.readouterr().out
    assert "8,500 x 4 features" in output and "depth 3" in output and "s per epoch of the first flow" in output


def test_class_counts_of_the_flow_benchmark_are_like_those_of_imagenet_lt() -> None:
    counts = dlsa_flow.counts_like_imagenet_lt(115_846)
    assert abs(counts.sum() - 115_846) < 1000
    assert (counts[0], counts[-1]) == (1280, 5)


def test_dlsa_benchmark_compares_every_variant_with_its_control(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = partial(hierarchical_features, classes=6, width=8, largest=60, imbalance=20.0, test=20)
    monkeypatch.setattr(dlsa, "hierarchical_features", small)
    dlsa.main(["synthetic", "--seeds", "2", "--smoke"])
    rows = rows_of(capsys.readouterr().out, "method")
    assert [row[0] for row in rows] == [*HEADS.names(), *dlsa.VARIANTS]
    control = next(row for row in rows if row[0] == "dlsa_control")
    assert control[3] == control[4] == "+0.00" and float(control[1].split()[0]) > 50


def test_dlsa_benchmark_takes_features_without_val(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    parts = hierarchical_features(0, classes=5, width=6, largest=60)
    (X, y), (Xt, yt) = parts["train"], parts["test"]
    np.savez(tmp_path / "own.npz", X=X, y=y, Xt=Xt, yt=yt)
    dlsa.main(["features", "--features", str(tmp_path / "own.npz"), "--seeds", "1", "--smoke", "--only", "base head"])
    rows = rows_of(capsys.readouterr().out, "method")
    assert [row[0] for row in rows] == ["base head", "dlsa_control"]
    assert 100 / 5 < float(rows[0][1]) <= 100


def test_dlsa_benchmark_refuses_unknown_sets(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        dlsa.main(["mnist"])
    assert "SET must be one of digits, synthetic, features, cifar100, got mnist" in capsys.readouterr().err


def test_dpp_benchmark_times_both_samplers_and_leaves_dppy_out_where_it_overflows(
    capsys: pytest.CaptureFixture,
) -> None:
    dpp.main(["--items", "60", "1200", "--sizes", "5", "600", "--repeats", "2", "--dppy-items", "1200"])
    rows = rows_of(capsys.readouterr().out, "N")
    assert [row[:2] for row in rows] == [["60", "5"], ["1,200", "5"], ["1,200", "600"]]
    assert [row[4] == "-" for row in rows] == [False, False, True]


def test_real_features_reports_every_method_over_seeds_and_goes_on_where_it_stopped(
    archive, tmp_path, monkeypatch, capsys, in_process
):
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "a.pth")
    calls = []

    def run_stage(folder, *command):
        calls.append(command)
        common.run_stage(folder, *command)
        return {"seconds": 2.0, "MiB": 100.0}

    monkeypatch.setattr(real_features, "run_stage", run_stage)
    command = ["--archive", str(archive), "--weights", str(tmp_path / "a.pth"), "--folder", str(tmp_path / "work")]
    command += ["--seeds", "0", "1", "--smoke"]
    command += ["--set", "train.backbone=test_resnet", "image_size=32", "dlsa.epochs=2", "dlsa.flow_epochs=1"]
    command += ["runtime.progress=off", "runtime.workers=0"]
    real_features.main(command)
    output = capsys.readouterr().out
    rows = rows_of(output, "method")
    assert [row[0] for row in rows] == [*HEADS.names(), "dlsa_control", "dlsa"]
    assert all("±" in row[1] and "100" in row[-1] for row in rows)
    assert calls.count(("extract_features",)) == 1 and calls.count(("rebalance", "lws")) == 2
    calls.clear()
    real_features.main(command)
    assert calls == [] and capsys.readouterr().out == output
