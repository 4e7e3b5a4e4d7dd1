"""The report: every state that a folder can be in gives a page or one line."""

import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from caugym_jax import report
from caugym_jax.errors import UserError
from caugym_jax.pages.gather import gather, mean_and_interval
from caugym_jax.pages.page import gain, page
from tests.pages.folders import make_evaluation, make_run, make_study

KINDS = ("greedy", "sampled")
VOID = {"meta", "input", "br"}


class Balanced(HTMLParser):
    """Fails where a tag is closed that was not the last one opened; collects names and links."""

    def __init__(self):
        super().__init__()
        self.open, self.names, self.links = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.links += [v for k, v in attrs if k in ("src", "href") or k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(paths):
    text, charts = page(gather(paths))
    parsed = Balanced()
    parsed.feed(text)
    assert parsed.open == []
    assert "script" not in parsed.names and "img" not in parsed.names
    assert all(link.startswith("#") for link in parsed.links)  # nothing from elsewhere
    for chart in charts.values():
        ET.fromstring(chart)
    return text, charts


def test_a_study_of_runs_and_evaluations(tmp_path):
    for method in ("grpo", "sft"):
        for seed in (0, 1):
            make_run(tmp_path / f"{method}-{seed}", method, seed)
    make_evaluation(tmp_path / "answers")
    text, charts = checked([tmp_path])
    assert {"methods", "reward-by-token", "time", "failures", "scorers"} <= set(charts)
    assert "change +50.0 points" in text
    assert ">+6.5<" in text  # published 100 % against the paper's 93.5 on base


@pytest.mark.parametrize("above", [False, True])
def test_a_study(tmp_path, above):
    folder = make_study(tmp_path / "own")
    text, charts = checked([tmp_path if above else folder])
    wanted = {"changes-problems", "changes-compute", "methods-problems", "methods-compute"}
    assert wanted | {"robustness", "failures-by-method"} <= set(charts)
    assert "all sets, sft: +25<" in charts["changes-problems"]
    assert "62.5 ± " in text and "+25.0 ± " in text  # of the methods, and against the first model
    assert "graph-free rule</td><td>75.0%" in text
    assert charts["eval-strict-by-step"].count(">grpo<") == 1  # one name, two runs
    answers = text.split('class="group"><summary>')[1:]
    shown = [f"{name}, {kind}" for name in ("grpo-0", "sft-0", "start") for kind in KINDS]
    assert [one.split("<")[0] for one in answers] == shown
    assert answers[0].count("✗ wrong</span> base") == 1
    assert "&lt;script&gt;alert(1)" in text


def test_a_study_that_has_only_begun(tmp_path):
    text, _ = checked([make_study(tmp_path / "own", tested=False)])
    assert "0 of 4 runs at equal problems are tested" in text
    assert "No model has been tested yet." in text


def test_a_study_with_damaged_files(tmp_path):
    folder = make_study(tmp_path / "own")
    for name in ("results.json", "grades.json"):
        (folder / "sft-0/sampled" / name).write_text('{"sets": {')
    with (folder / "grpo-0/metrics.jsonl").open("a") as file:
        file.write('{"tokens": 3')
    (folder / "data/audit/base.json").write_text("[")
    text, _ = checked([folder])
    assert "3 of 4 runs" in text
    (folder / "study.json").write_text('{"method": "study", "of another": "version"}')
    checked([folder])


def test_no_text_of_a_model_breaks_the_page(tmp_path):
    make_run(tmp_path / "run")
    make_evaluation(tmp_path / "answers")
    text, _ = checked([tmp_path / "run", tmp_path / "answers"])
    assert "&lt;script&gt;alert(1)" in text and "\x00" not in text
    text.encode()  # a lone surrogate would fail


def test_nan_and_interrupted_runs(tmp_path):
    run = make_run(tmp_path / "run", finished=False, loss=float("nan"))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 0.')
    (run / "samples.jsonl").unlink()
    text, _ = checked([run])
    assert "not finished" in text and "1 damaged lines" in text and "no finite values" in text


def test_a_run_without_evaluations(tmp_path):
    run = make_run(tmp_path / "run", finished=False)
    (run / "before.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(x for x in lines if "eval/" not in x) + "\n")
    text, charts = checked([run])
    assert "<b>–</b>" in text and "before:" not in text
    assert "reward-by-step" in charts and "eval-strict-by-step" not in charts


def test_a_run_that_has_only_begun(tmp_path):
    run = make_run(tmp_path / "run", finished=False)
    (run / "metrics.jsonl").write_text("")
    (run / "before.json").write_text('{"right": [')
    checked([run])


def test_damaged_answers_are_left_out(tmp_path):
    folder = make_evaluation(tmp_path / "answers")
    (folder / "base_dataset.jsonl").write_text('{"problem": 1}\n')
    text, _ = checked([folder])
    assert "50.0% ± 19.6" in text


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_folder_that_is_no_run_is_one_line(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name):
        gather([tmp_path / name])


def test_the_command_writes_page_and_charts(tmp_path, capsys):
    make_run(tmp_path / "run")
    out = tmp_path / "deep" / "report.html"
    report.main([f"--runs={tmp_path / 'run'}", f"--out={out}", f"--figures={tmp_path / 'charts'}"])
    assert "wrote" in capsys.readouterr().out
    assert out.read_text().startswith("<!doctype html>")
    chart = (tmp_path / "charts" / "reward-by-step.svg").read_text()
    assert "var(" not in chart and 'fill="#1b1b1f"' in chart


def test_interval_by_hand():
    # 0, 1, 1, 1: mean 3/4, sd 1/2, half-width 1.96 * 0.5 / 2 = 0.49; cut at 1.
    mean, low, high = mean_and_interval([0, 1, 1, 1])
    assert (mean, round(low, 10), high) == (0.75, 0.26, 1.0)


def test_gain_is_paired(tmp_path):
    (run,) = gather([make_run(tmp_path / "run")]).runs
    mean, low, high = gain(run)
    # d = 1, 1, 0, 0: mean 1/2, sd 0.57735, half-width 0.5658 (of d), within [-1, 1].
    assert mean == 0.5 and low == pytest.approx(0.5 - 0.5658, abs=1e-4) and high == 1.0


def test_transcripts_show_the_graph_and_mark_the_steps(tmp_path):
    from caugym_jax.data.files import problem_record
    from tests.data.solutions.problems import problems, tokens

    problem, plan = problems("deconfounding")[0]
    answer = "".join(tokens(plan)).replace("#1=0.", "#1=1.", 1)
    folder = make_evaluation(tmp_path / "answers")
    row = problem_record(problem) | {"all_generated_answers": [answer]}
    (folder / "base_dataset.jsonl").write_text(json.dumps(row) + "\n")
    text, _ = checked([folder])
    assert "✗ (application)" in text and "adjusted for green" in text
