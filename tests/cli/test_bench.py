# SPDX-License-Identifier: Apache-2.0
"""``bido bench``: right numbers before any time, a table, JSON, and refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from typer.testing import CliRunner

from bido_ext.cli.app import app
from bido_ext.lab.experiments.bench import contenders, run
from bido_ext.lab.experiments.bench.problem import make_problem
from bido_ext.serving import measure as clock

TINY = ("--n", "12", "--device", "cpu", "--threads", "1")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setattr(clock, "MIN_SAMPLE_S", 1e-6)
    yield
    assert torch.get_num_threads() == before, "--threads outlived the command"


def bench(*arguments: str):
    return CliRunner().invoke(app, ["bench", *TINY, *arguments])


@pytest.mark.parametrize("measure", run.MEASURES)
@pytest.mark.parametrize("shape", [("--dims", "9,5"), ("--dims", "9,5,7", "--classes", "3")])
def test_json_holds_times_errors_plan_and_what_serves(measure, shape):
    result = bench("--measure", measure, *shape, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    own, eager = document["rows"]
    assert (own["name"], eager["name"]) == ("bido_ext", "eager")
    assert own["value_error"] <= 1e-4
    assert own["gradient_error"] <= 5e-4
    for row in (own, eager):
        assert row["times_floor"] == pytest.approx(row["ms"] / document["floor_ms"])
    assert document["plan"]["regime"] == "dense"
    assert measure in [row["op"] for row in document["serves"]]
    assert document["num_classes"] == (3 if "--classes" in shape else 0)
    assert (document["threads"], document["rounds"]) == (1, 7)


def test_samples_may_be_given_as_the_readme_does():
    arguments = (
        "bench",
        "-n",
        "14",
        "--dims",
        "9,5",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--json",
    )
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["n"] == 14


def test_table_names_everything():
    text = bench("--measure", "hsic", "--dims", "9,5,7", "--dtype", "float64").stdout
    assert "n = 12, d = 9, 5, 7, labels of 10 classes; float64, cpu, 1 thread, medians" in text
    for word in (
        "x floor",
        "gradient error",
        "bido_ext",
        "eager",
        "floor",
        "plan    dense",
        "serves  hsic: ",
    ):
        assert word in text


def test_an_implementation_that_cannot_run_is_a_line_without_times(monkeypatch):
    monkeypatch.setattr(
        run, "eager", lambda *_: (_ for _ in ()).throw(RuntimeError("no inverse\nin half"))
    )
    result = bench("--measure", "nhsic", "--dims", "9,5")
    assert result.exit_code == 0
    assert "eager cannot run: no inverse\n" in result.stdout


@pytest.mark.parametrize("wrong", ["value", "gradient", "nan"])
def test_wrong_numbers_get_no_time(monkeypatch, wrong):
    def own(measure, problem):
        right = contenders.own(measure, problem)
        if wrong == "nan":
            return right * float("nan")
        return right + (right.detach() if wrong == "value" else 0.01 * (right - right.detach()))

    monkeypatch.setattr(run, "own", own)
    monkeypatch.setattr(run, "interleaved", lambda *_, **__: pytest.fail("it was timed"))
    result = bench("--measure", "hsic", "--dims", "9,5")
    assert result.exit_code == 1
    assert "no time is reported" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("measure", run.MEASURES)
def test_eager_is_the_textbook(measure):
    problem = make_problem(10, (6, 4, 5), 3).to(torch.float64)
    assert float(contenders.eager(measure, problem).detach()) == pytest.approx(
        float(contenders.textbook(measure, problem).detach()), rel=1e-8
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--measure", "hsci"), "measure must be one of hsic, nhsic, coco, cka, got 'hsci'"),
        (("--dims", "9"), "dims must be at least two"),
        (("--dims", "9,x"), "--dims must be numbers such as 3072,512, got '9,x'"),
        (("--dims", "9,5,7", "--classes", "0"), "or 0 with exactly two dims"),
        (("--n", "100000"), "n must be 2 to 8192"),
        (("--dtype", "int8"), "dtype must be one of"),
        (("--threads", "0"), "threads must be positive"),
        (("--device", "toaster"), "device 'toaster' cannot be used"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, message):
    result = bench(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
