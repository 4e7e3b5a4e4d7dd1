"""Other benchmarks: small files in the published formats; the real ones where they are cached."""

import csv
import json
import random

import pytest

from caugym_jax.data.released import released_files
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.devices.starting import cache_folder
from caugym_jax.errors import UserError
from caugym_jax.evals.accuracy import summarize, table
from caugym_jax.evals.answering import Protocol, _prompts
from caugym_jax.evals.answers import read_answers
from caugym_jax.evals.suites import Question, answer_of, drawn, read_items, right
from tests.data.byte_tokenizer import save_byte_tokenizer

WORLD = "Imagine a world: smoking has a direct effect on tar."
GIVEN = {"given_info": "The chance is 26%.", "question": "Will it rise?", "answer": "yes"}
ROWS = {
    "gsm8k/test.jsonl": {"question": "2+2?", "answer": "2+2 = <<2+2=4>>4\n#### 4", "idx": 0},
    "amc23/test.jsonl": {"id": 0, "problem": "2+2?", "answer": 4.0, "question": "2+2?"},
    "math500.jsonl": {"problem": "2+2?", "solution": r"\boxed{4}", "answer": "4", "subject": "A"},
    "minerva_math/test.jsonl": {"problem": "2+2?", "solution": r"So $\boxed{4}$", "type": "B"},
    "cladder.jsonl": GIVEN | {"background": WORLD, "meta": {"rung": 2}},
    "clear.json": {"description": "A DAG.", "question": "Is it?", "answer": "Yes.",
                   "question_type": "YN", "task_type": "edge"},
    "probe.json": {"id": 1, "context": "c", "question": "Why?", "answer": 3,
                   **{f"choice_{i}": f"because {i}" for i in range(1, 5)}},
}  # fmt: skip
KINDS = dict(zip(ROWS, [*["math"] * 4, "yes_no", "yes_no", "letter"], strict=True))


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows))
    return str(path)


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_read_asked_and_graded(tmp_path, name):
    ((question,), left_out) = read_items(write(tmp_path / name, [ROWS[name]]))
    assert question.kind == KINDS[name] and left_out == 0
    good, bad = {"math": ("4.0", "5"), "yes_no": ("Yes", "No"), "letter": ("C", "A")}[question.kind]
    assert right(question, rf"It is \boxed{{{good}}}") and not right(question, rf"\boxed{{{bad}}}")
    assert right(question, rf"<think>{bad}</think> so \boxed{{{good}}}")
    for text in ("", f"<think>\\boxed{{{good}}}", "no idea" if question.kind != "yes_no" else "?"):
        assert not right(question, text)
    assert not right(question, rf"\boxed{{{good}}}", truncated=True)
    assert "answer" in question.text and ("2+2?" in question.text) == (question.kind == "math")


@pytest.mark.parametrize(
    ("kind", "text", "given"),
    [
        ("yes_no", "No effect either way.\nThe answer is yes.", "yes"),
        ("yes_no", "Yes, since no other path is open.", "Yes"),
        ("yes_no", "I cannot tell.", None),
        ("letter", "A is wrong.\n**Answer: B**", "B"),
        ("letter", "Answer: B\nas I said", None),
        ("number", "There are 3 of them: 2 and 1 more.\n12", "12"),
        ("number", "about 2.5", None),
    ],
)
def test_the_last_line_answers(kind, text, given):
    assert answer_of(kind, text) == given


def test_backgrounds_beside_the_file_and_csv(tmp_path):
    row = GIVEN | {"meta": {"rung": 1, "model_id": 7}}
    path = write(tmp_path / "test-generate-easy.json", [row])
    with pytest.raises(UserError, match="item 0 .*no 'background', and no .*test-model-meta"):
        read_items(path)
    (tmp_path / "more").mkdir()
    path = write(tmp_path / "more/test-generate-easy.json", [row])
    write(tmp_path / "more/test-model-meta.json", [{"model_id": 7, "background": WORLD}])
    ((question,), _) = read_items(path)
    assert question.text.startswith(WORLD) and question.task == "rung 1"
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*GIVEN, "background", "meta"])
        writer.writeheader()
        writer.writerow(GIVEN | {"background": WORLD, "meta": str(row["meta"])})
    assert read_items(str(tmp_path / "a.csv"))[0] == [question]


def test_rows_without_an_objective_answer_are_left_out(tmp_path):
    clear, probe = ROWS["clear.json"], ROWS["probe.json"]
    found = read_items(write(tmp_path / "clear.json", [clear, clear | {"question_type": "FA"}]))
    assert (len(found[0]), found[1]) == (1, 1)
    found = read_items(write(tmp_path / "probe.json", [probe | {"answer": 5}, probe]))
    assert (len(found[0]), found[1]) == (1, 1)
    with pytest.raises(UserError, match="none of its 1 rows can be graded"):
        read_items(write(tmp_path / "no.json", [probe | {"answer": 5}]))


def test_messages_name_the_row_of_the_file(tmp_path):
    """Not the place among those that are graded."""
    rows = [ROWS["clear.json"] | {"question_type": kind} for kind in ("FA", "YN")]
    path = write(tmp_path / "clear.json", rows)
    with pytest.raises(UserError, match="item 1 .*no all_generated_answers"):
        read_answers(path)
    template = "{{ raise_exception('No questions!') }}"
    tokenizer = load_tokenizer(save_byte_tokenizer(tmp_path / "t", chat_template=template))
    questions, _ = read_items(path)
    with pytest.raises(UserError, match=r"clear.json, item 1 .*template refuses .*: No questions!"):
        list(_prompts(path, [0], questions, Protocol(), tokenizer))


def test_answers_are_read_back_and_summed_up(tmp_path):
    (question,), _ = read_items(write(tmp_path / "gsm8k.jsonl", [ROWS["gsm8k/test.jsonl"]]))
    rows = [question.record | {"all_generated_answers": [r"\boxed{4}", "4?"],
                               "truncated": [False, False], "num_tokens": [3, 2]}]  # fmt: skip
    answered = read_answers(write(tmp_path / "answers.jsonl", rows))
    assert answered[0].problem.record == question.record
    found = summarize(answered)
    assert found["suite"] == "gsm8k" and found["strict"]["all"] == 0.5 and found["n"] == 1
    assert "gsm8k (gsm8k): gsm8k 50.0" in table({"gsm8k": found})


def test_answers_of_other_tools(tmp_path):
    doc = ROWS["gsm8k/test.jsonl"]
    lm_eval = [{"doc_id": 0, "doc": doc, "target": "4", "resps": [["\\boxed{4}"], ["no"]]}]
    (tmp_path / "gsm8k_log.json").write_text(json.dumps({"version": 2, "samples": [
        {"id": 1, "epoch": epoch, "input": [{"role": "user", "content": "2+2?"}], "target": "4",
         "output": {"choices": [{"message": {"content": [{"type": "text", "text": text}]}}]}}
        for epoch, text in enumerate(["#### 4", "5"], 1)]}))  # fmt: skip
    other = [doc | {"response": ["\\boxed{4}", "\\boxed{3}"]}]
    for path, key in (
        (write(tmp_path / "samples_gsm8k.jsonl", lm_eval), None),
        (str(tmp_path / "gsm8k_log.json"), None),
        (write(tmp_path / "gsm8k_other.jsonl", other), "response"),
    ):
        (answered,) = read_answers(path, key)
        assert isinstance(answered.problem, Question) and len(answered.completions) == 2
        assert summarize([answered])["strict"]["all"] == 0.5, path
    with pytest.raises(UserError, match="no 'answers': the keys are question, answer, idx, respon"):
        read_answers(str(tmp_path / "gsm8k_other.jsonl"), "answers")


def test_items_are_drawn_evenly_over_tasks():
    items = [Question("?", "", "math", task, "math") for task in "aaaaaabbbc"]
    places = drawn(items, 5, seed=1)
    assert sorted(items[i].task for i in places) == ["a", "a", "b", "b", "c"]
    assert drawn(items, 8, seed=1)[:5] == places != drawn(items, 5, seed=2)
    assert sorted(drawn(items, 99, seed=1)) == list(range(10))


COUNTS = {"math500": 500, "amc": 83, "amc23": 40, "minerva": 272, "gsm8k": 1319,
          "cladder_easy": 844, "cladder_det": 512, "causalprobe_e": 3453}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_reference_answers_of_published_files_are_right_and_shuffled_ones_near_chance(name):
    (file,) = [f for f in released_files() if (f.set, f.name) == ("suites", name)]
    if not (cache_folder() / file.place).exists():
        pytest.skip("not in the cache: python -m caugym_jax.data.fetch --set=suites")
    items, _ = read_items(f"suites:{name}")
    assert len(items) == COUNTS[name]
    few = items[:100]
    texts = [rf"So \boxed{{{item.answer}}}" for item in few]
    assert all(map(right, few, texts))
    random.Random(0).shuffle(texts)
    chance = {"math": 0.1, "letter": 0.25, "yes_no": 0.5}[items[0].kind]
    assert sum(map(right, few, texts)) / len(few) < chance + 0.15
