import dataclasses
import json
import subprocess
import sys
from collections import Counter
from decimal import Decimal

import pytest

from caugym_jax.causal.engine.solving import truth
from caugym_jax.data import files
from caugym_jax.data.files import problem_record, read_problems, write_jsonl
from caugym_jax.data.items import asked
from caugym_jax.data.layouts import problem_of
from caugym_jax.errors import UserError
from caugym_jax.types import TASKS, VARIANTS, Problem
from tests.problems import dose_text, from_text
from tests.shared import shared_path

GOOD = {"problem": "Is it?", "answer": '{"ANSWER": "Yes", "PROB": "0.25"}', "Type": "ATE"}
TEXT = dose_text("0.25")
UNREAD = "the text is not in a wording that can be read exactly"
LACKS = GOOD | {"answer": "LACK_CONDITION"}


def save(path, rows):
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "hard"])
def test_official_test_sets(variant):
    path = shared_path(f"data/caugym/test_dev/{variant}_dataset.json")
    problems = read_problems(path)
    assert Counter(p.task for p in problems) == dict.fromkeys(TASKS, 20)
    assert {p.variant for p in problems} == {variant}
    assert {p.lacks for p in problems} == {variant == "insufficient"}
    raw = json.loads(path.read_text())
    assert [(p.text, p.answer, p.reason) for p in problems] == [
        (r["problem"], r["answer"], r["Reason"]) for r in raw
    ]
    columns = {"problem", "answer", "Reason", "Type", *problems[0].extra} - {"original_problem"}
    assert columns == raw[0].keys()
    assert all(p.story.query.task == p.task and not p.unread for p in problems)


def test_task_from_the_question_alone_equals_the_label():
    for variant in ("deconfounding", "redundant"):
        for p in read_problems(shared_path(f"data/caugym/test_dev/{variant}_dataset.json")):
            lines = [line for line in p.text.split("\n") if not line.startswith("Instruction")]
            row = {"problem": "\n".join(lines), "answer": p.answer}
            assert problem_of(row, None, None).task == p.task


def test_rl_parquet_keeps_the_prompt_and_finds_the_task():
    problems = read_problems(shared_path("data/caugym/train/online_RL.parquet"))
    assert Counter(p.task for p in problems) == dict.fromkeys(TASKS, 500)
    assert all(p.prompt == p.text + " Let's think step by step." for p in problems)
    assert all((p.verdict is None) == (p.task in ("PN", "PS")) for p in problems)
    assert all(p.solution is None for p in problems)


def test_cold_start_parquet_carries_traces():
    problems = read_problems(shared_path("data/caugym/train/cold_start_sft.parquet"))
    assert Counter(p.task for p in problems) == {"NIE": 25, "PN": 25, "PS": 25}
    assert all(p.solution.startswith("<think>") and "</think>" in p.solution for p in problems)
    assert all(None not in p.reason.values() and p.reason for p in problems)
    assert all("Let's think" not in p.text for p in problems)


def test_records_read_back_equal(tmp_path):
    problems = [
        Problem("A?\u2028B", '{"PROB": "1.0000"}', "PN", {"Step 1": "é"}, "hard", extra={"idx": 7}),
        Problem("C?", "LACK_CONDITION", "NIE", {}, "insufficient", "C? go", "<think>\nx", {}),
        from_text(TEXT, GOOD["answer"], "ATE"),
    ]
    problems[:2] = [dataclasses.replace(p, unread=UNREAD) for p in problems[:2]]
    write_jsonl(tmp_path / "out.jsonl", map(problem_record, problems))
    assert read_problems(tmp_path / "out.jsonl") == problems


def test_several_paths_and_a_forced_variant(tmp_path):
    one = save(tmp_path / "one.json", [GOOD])
    two = save(tmp_path / "redundant_dataset.json", [GOOD, GOOD])
    problems = read_problems(f"{one}, {two}")
    assert [p.variant for p in problems] == ["base", "redundant", "redundant"]
    assert {p.variant for p in read_problems(f"{one},{two}", "hard")} == {"hard"}
    with pytest.raises(UserError, match="'easy'"):
        read_problems(one, "easy")


def test_variant_of_an_unnamed_file_never_tells_the_label(tmp_path):
    mixed = read_problems(save(tmp_path / "mine.json", [GOOD, LACKS]))
    assert [p.variant for p in mixed] == ["insufficient", "insufficient"]
    said = [GOOD | {"variant": "base"}, LACKS | {"variant": "insufficient"}]
    assert [p.variant for p in read_problems(save(tmp_path / "mine.json", said))] == [
        "base",
        "insufficient",
    ]
    said = [GOOD | {"data_source": "caugym_redundant"}, LACKS]
    assert [p.variant for p in read_problems(save(tmp_path / "mine.json", said))] == [
        "redundant",
        "base",
    ]


def test_rows_for_fine_tuning_and_for_rl(tmp_path):
    def said(role, content):
        return [{"role": role, "content": content}]

    hint = 'If the condition is not enough to solve the question, output "LACK_CONDITION" as final'
    rows = [
        {
            "prompt": said("user", "If A is changed to be x, ok?\nLet's think step by step."),
            "Type": "ATE",
            "completion": said("assistant", f"Step 1: no.\n{GOOD['answer']}"),
        },
        {
            "prompt": said(
                "user", f"If A is changed to be y?\nLet's think step by step. {hint} answer."
            ),
            "Type": "ATE",
            "completion": said("assistant", "Step 1: no.\nLACK_CONDITION"),
        },
        {
            "prompt": said("user", "If A is changed to be z? Let's think step by step."),
            "Type": "ATE",
            "reward_model": {"ground_truth": GOOD["answer"]},
            "data_source": "caugym_redundant",
        },
    ]
    one, two, three = read_problems(save(tmp_path / "base.json", rows))
    assert (one.text, one.task, one.answer) == (
        "If A is changed to be x, ok?",
        "ATE",
        GOOD["answer"],
    )
    assert one.prompt == rows[0]["prompt"][0]["content"]
    assert one.solution == rows[0]["completion"][0]["content"]
    assert (two.text, two.lacks) == ("If A is changed to be y?", True)
    assert (three.text, three.variant) == ("If A is changed to be z?", "redundant")
    bad = [{**rows[0], "completion": said("assistant", "Step 1: no.")}]
    with pytest.raises(UserError, match="item 0 .*'answer' must be"):
        read_problems(save(tmp_path / "bad.json", bad))


@pytest.mark.parametrize(
    "row, words",
    [
        ({k: v for k, v in GOOD.items() if k != "problem"}, "no 'problem'"),
        ({k: v for k, v in GOOD.items() if k != "answer"}, "no 'answer'"),
        (GOOD | {"problem": " "}, "'problem' must be text"),
        (GOOD | {"Type": "ABC"}, "'Type' must be one of .* found 'ABC'"),
        ({k: v for k, v in GOOD.items() if k != "Type"}, "'Type'"),
        (GOOD | {"answer": "perhaps"}, "'answer' must be"),
        (GOOD | {"answer": '{"PROB": "nan"}'}, "'answer' must be"),
        (GOOD | {"answer": '{"ANSWER": "Yes"}'}, "'answer' must be"),
        (GOOD | {"answer": "0.5"}, "'answer' must be"),
        (GOOD | {"answer": {"PROB": 1}}, "'answer' must be text"),
        (GOOD | {"variant": "odd"}, "'variant'"),
        (GOOD | {"solution": 3}, "'solution' must be text"),
        (GOOD | {"Reason": ["no"]}, "'Reason' must be"),
        ({"prompt": [{"role": "user", "content": "x"}]}, "no 'reward_model'"),
        ({"prompt": [{"role": "user"}], "reward_model": {}}, "no 'content'"),
        ({"prompt": [], "reward_model": {"ground_truth": "x"}}, "'prompt' is empty"),
        ("text", "expected a JSON object"),
        (None, "expected a JSON object"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, words):
    path = save(tmp_path / "mine.json", [GOOD, GOOD, row])
    with pytest.raises(UserError, match=rf"mine\.json, item 2 .*: .*{words}") as e:
        read_problems(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.json", b'[{"problem": "x",\n "answer": ]', "a.json, line 2: not valid JSON"),
        ("a.json", b"{}", "expected a JSON list"),
        ("a.json", b"[]", "holds no problems"),
        ("a.jsonl", b"\n", "holds no problems"),
        ("a.jsonl", json.dumps(GOOD).encode() + b'\n\n{"prob', "a.jsonl, line 3: not valid JSON"),
        ("a.json", b"\xff\xfe[", "not UTF-8"),
        ("a.json", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("a.parquet", b"PAR1 but not really", "not a readable parquet"),
        ("a.txt", b"x", "expected a .json, .jsonl, .csv, .parquet"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as e:
        read_problems(tmp_path / name)
    assert "\n" not in str(e.value) and str(tmp_path / name) in str(e.value)


def test_truncated_parquet_is_named(tmp_path):
    data = shared_path("data/caugym/train/online_RL.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cut.parquet is not a readable parquet"):
        read_problems(tmp_path / "cut.parquet")


def test_missing_file_and_hub_without_network(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"cannot read .*gone\.json: No such file"):
        read_problems(tmp_path / "gone.json")
    with pytest.raises(UserError, match="cannot read"):
        (tmp_path / "folder.json").mkdir()
        read_problems(tmp_path / "folder.json")
    with pytest.raises(UserError, match="expected hf:owner/name"):
        read_problems("hf:nobody")
    import datasets

    def offline(name, split):
        assert (name, split) == ("nobody/nothing", "test")
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"cannot load hf:nobody/nothing:test .*no route to host"):
        read_problems("hf:nobody/nothing:test")


def test_hub_rows_are_problems(monkeypatch):
    import datasets

    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, split: datasets.Dataset.from_list([GOOD])
    )
    assert read_problems("hf:owner/name") == [
        Problem("Is it?", GOOD["answer"], "ATE", unread=UNREAD)
    ]


def test_writing_is_all_or_nothing(tmp_path):
    path = tmp_path / "deep" / "out.jsonl"
    write_jsonl(path, [{"a": "é"}])
    assert path.read_text() == '{"a": "é"}\n'

    def rows():
        yield {"a": 1}
        raise RuntimeError("stopped in the middle")

    with pytest.raises(RuntimeError):
        write_jsonl(path, rows())
    assert path.read_text() == '{"a": "é"}\n'
    assert [p.name for p in path.parent.iterdir()] == ["out.jsonl"]
    with pytest.raises(UserError, match="cannot write"):
        files.write_json(path / "below_a_file.json", {})


def test_reading_needs_no_heavy_import():
    code = "import sys, caugym_jax.data.files; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "caugym_jax" in done.stdout
    loaded = {name.split(".")[0].strip("'") for name in done.stdout.strip("[]\n").split(", ")}
    assert not loaded & {"jax", "flax", "transformers", "datasets", "pyarrow", "torch"}


def test_a_folder_is_a_hub_data_set_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "mine"
    folder.mkdir()
    for split in ("train", "test"):
        row = GOOD | {"problem": f"Is it {split}?"}
        (folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    assert [p.text for p in read_problems(f"hf:{folder}")] == ["Is it train?"]
    assert [p.text for p in read_problems(f"hf:{folder}:test")] == ["Is it test?"]
    with pytest.raises(UserError, match="cannot load hf:.*:dev"):
        read_problems(f"hf:{folder}:dev")


def messages(*contents):
    roles = ("user", "assistant")
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


def test_preference_rows_are_problems(tmp_path):
    asked = f"{TEXT}\nLet's think step by step."
    right, wrong = f"So\n{GOOD['answer']}", "So\nLACK_CONDITION"
    rows = [
        {"prompt": messages(asked), "chosen": messages(None, right)[1:], "rejected": wrong},
        {"chosen": messages(asked, right), "rejected": messages(asked, wrong)},
        {"prompt": asked, "completion": right, "label": True},
        {"prompt": asked, "completion": wrong, "label": False, "answer": GOOD["answer"]},
    ]
    problems = read_problems(save(tmp_path / "mine.json", rows))
    assert {(p.text, p.answer, p.task) for p in problems} == {(TEXT, GOOD["answer"], "ATE")}
    assert [p.solution for p in problems] == [right, right, right, wrong]
    assert [p.extra for p in problems] == [
        *[{"rejected": wrong}] * 2,
        {"label": True},
        {"label": False},
    ]
    rows = [{"prompt": "So?", "completion": wrong, "label": False, "Type": "ATE"}]
    with pytest.raises(UserError, match="no answer is given and the engine finds none"):
        read_problems(save(tmp_path / "mine.json", rows))


CALM = {
    "index": 4,
    "Background": {
        "graph": "Given a causal graph with 2 nodes A, B, and 1 edges A->B.",
        "data_info": "For those with rain being low, the probability of fog being high is 0.3000. "
        "For those with rain being high, the probability of fog being high is 0.1000. ",
    },
    "Instruction": "Consider the effect of treatment on the treated (ETT) of rain on fog.",
    "Question": "For those with rain being low, if their rain had been high, would the fog have "
    "been more likely to be high?",
    "Reason": {"Step 1": "so"},
    "Type": "ETT",
    "Mode": "RANDOM",
    "gt_answer": 0.19999999999999998,
    "given_info": "Imagine a self-contained, hypothetical world with only the following "
    "conditions, and without any unmentioned factors or causal relationships: Rain has a direct "
    "effect on fog.",
}


def test_calm_rows_one_a_line(tmp_path):
    unlabelled = {k: v for k, v in CALM.items() if k != "gt_answer"}
    lines = [json.dumps(row) for row in (CALM, unlabelled)]
    (tmp_path / "ETT-P_ETT-hard_EN.json").write_text("\n".join(lines) + "\n")
    problems = read_problems(tmp_path / "ETT-P_ETT-hard_EN.json")
    for problem in problems:
        assert problem.answer == '{"ANSWER": "No", "PROB": "0.2"}'  # the engine says the same
        assert (problem.task, problem.variant, problem.reason) == ("ETT", "base", {"Step 1": "so"})
        assert truth(problem).value == Decimal("0.2")
        start, *middle, question, form = problem.text.split("\n")
        assert start.startswith("Input Info: Imagine") and start.endswith("effect on fog.")
        assert middle == [CALM["Background"]["data_info"], "Instruction: " + CALM["Instruction"]]
        assert question == "Question: " + CALM["Question"]
        assert form.startswith("Provide the calculation result to four decimal places and a final")
    assert problems[0].extra["gt_answer"] == CALM["gt_answer"]
    natural = CALM | {"gt_answer": "No"}
    with pytest.raises(UserError, match="item 0 .*'gt_answer' must be a number between -1 and 1"):
        read_problems(save(tmp_path / "natural.json", [natural]))
    nothing = {k: v for k, v in CALM.items() if k != "Question"}
    with pytest.raises(UserError, match="no 'Question'"):
        read_problems(save(tmp_path / "mine.json", [nothing]))


def test_conversations_are_problems(tmp_path):
    """The last answer and the question that reads as a problem, else the first, make the problem;
    what is asked is the whole conversation up to that answer."""
    text = "Instruction: Consider the average treatment effect (ATE).\nQuestion: Why?"
    said = (
        ["user", text],
        ["assistant", "Hm."],
        ["user", "And?"],
        ["assistant", 'So:\n{"PROB": "0.1"}'],
    )
    messages = [{"role": role, "content": content} for role, content in said]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": messages, "Type": "ATE"}) + "\n")
    (problem,) = read_problems(path)
    assert (problem.text, problem.prob, problem.task) == (text, 0.1, "ATE")
    assert problem.solution == 'So:\n{"PROB": "0.1"}' and problem.prompt == tuple(messages[:-1])
    assert asked(problem) == problem.prompt
    write_jsonl(path, [problem_record(problem)])
    assert read_problems(path) == [problem]
    path.write_text(json.dumps({"messages": messages[:-1], "Type": "ATE"}) + "\n")
    with pytest.raises(UserError, match="item 0 .*no 'reward_model'"):
        read_problems(path)


def test_rewritten_items_have_the_story_of_the_base_item_at_their_place(tmp_path):
    """Where it lies beside them and has their label; answers carry its text along."""
    base = {"problem": TEXT, "answer": GOOD["answer"], "Type": "ATE"}
    words = "Dose works on height. Would a high dose make tall height less likely?"
    rows = [base | {"problem": words}, base | {"problem": words, "Type": "ETT"}]
    path = save(tmp_path / "rephrased_dataset.json", rows)
    assert [p.unread for p in read_problems(path)] == [UNREAD] * 2
    save(tmp_path / "base_dataset.json", [base, base])
    first, second = read_problems(path)
    assert first.text == words and not first.unread and second.unread == UNREAD
    story = from_text(TEXT, GOOD["answer"], "ATE").story
    assert first.story == dataclasses.replace(story, direction=-1)
    assert truth(first).verdict == "No"
    write_jsonl(tmp_path / "elsewhere.jsonl", [problem_record(first)])
    assert read_problems(tmp_path / "elsewhere.jsonl") == [first]


def test_a_text_that_asks_for_another_task_has_no_story():
    problem = from_text(TEXT, GOOD["answer"], "ETT")
    assert problem.story is None and problem.broken
    assert problem.unread == "the text asks for ATE, the item says ETT"
