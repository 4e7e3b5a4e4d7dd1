import json
import subprocess
import sys

import pytest

from caugym_jax import generate
from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data import rows
from caugym_jax.data.texts.mistakes import KINDS
from caugym_jax.data.texts.solution import steps_of
from caugym_jax.errors import UserError
from caugym_jax.evals.scorers import strict
from tests.problems import from_text
from tests.shared import shared_path


def run(out, *flags):
    generate.main([f"--out={out}", "--tasks=ATE,ETT", "--n=12", "--seed=3", *flags])


def test_json_and_jsonl_hold_the_official_schema(tmp_path):
    run(tmp_path / "a.json")
    run(tmp_path / "a.jsonl")
    rows = json.loads((tmp_path / "a.json").read_text())
    assert rows == [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    for row, problem in zip(rows, generate_problems(["ATE", "ETT"], 12, 3), strict=True):
        assert row["problem"] == problem.text
        assert row["answer"] == problem.answer
        assert row["Reason"] == steps_of(problem)
        assert row["Type"] == problem.task
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.jsonl"]


def test_parquet_rl_has_the_released_columns(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    run(tmp_path / "rl.parquet", "--for=rl")
    table = pq.read_table(tmp_path / "rl.parquet")
    row = table.to_pylist()[0]
    (message,) = row["prompt"]
    assert message["role"] == "user"
    assert message["content"].endswith(": Let's think step by step.")
    assert "\n\nQuestion: " in message["content"] and "Instruction" not in message["content"]
    assert set(json.loads(row["reward_model"]["ground_truth"])) == {"ANSWER", "PROB"}
    released = pq.read_schema(shared_path("data/caugym/train/online_RL.parquet"))
    assert table.schema.equals(released)


def test_sft_rows_are_conversations(tmp_path):
    run(tmp_path / "sft.jsonl", "--for=sft")
    row = json.loads((tmp_path / "sft.jsonl").read_text().splitlines()[0])
    (asked,), (said,) = row["prompt"], row["completion"]
    assert asked["role"] == "user" and asked["content"].endswith("\nLet's think step by step.")
    assert said["role"] == "assistant" and said["content"].startswith("Step 1: Check whether")
    json.loads(said["content"].splitlines()[-1])


def test_sft_prompts_of_lacking_problems_carry_the_hint(tmp_path):
    run(tmp_path / "l.jsonl", "--for=sft", "--variant=insufficient", "--nodes=4..5")
    row = json.loads((tmp_path / "l.jsonl").read_text().splitlines()[0])
    assert row["prompt"][0]["content"].endswith(
        "Let's think step by step. If the condition is not enough to solve the question, output "
        '"LACK_CONDITION" as final answer.'
    )
    assert row["completion"][0]["content"].endswith("\nLACK_CONDITION")


def test_parquet_holds_problems_of_any_shape(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    run(tmp_path / "a.parquet", "--tasks=ATE,PN,NIE,CDE")
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert len(rows) == 12
    assert json.loads(rows[0]["Structure"])["graph"]["nodes"]


def test_a_failure_leaves_the_old_file_whole(tmp_path, monkeypatch):
    out = tmp_path / "a.jsonl"
    out.write_text("old")

    def full(path, rows):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(rows._WRITERS, ".jsonl", full)
    with pytest.raises(UserError, match=r"a\.jsonl: No space left on device"):
        run(out)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("variant, n", [("base", 450), ("hard", 250)])
def test_the_file_is_the_same_whatever_the_number_of_workers(tmp_path, variant, n):
    for workers in (1, 3):
        generate.main(
            [
                f"--out={tmp_path / str(workers)}.jsonl",
                "--tasks=ATE,PN",
                f"--n={n}",
                f"--variant={variant}",
                f"--workers={workers}",
            ]
        )
    one, three = ((tmp_path / f"{workers}.jsonl").read_text() for workers in (1, 3))
    assert one == three and one.count("\n") == n


@pytest.mark.parametrize(
    "flags, status, message",
    [
        (["--tasks=ATE,EET"], 1, "error: unknown task 'EET': did you mean 'ETT'?"),
        (["--out=x.csv"], 1, "error: --out=x.csv: end the name in .json, .jsonl, .parquet"),
        (["--out=no/such/folder/x.json"], 1, "error: cannot write no/such/folder/x.json"),
        (["--workers=0"], 1, "error: --workers=0: give at least 1"),
        (["--n=0"], 1, "error: --n=0"),
        (["--nodes=many"], 2, "'many' is not a range like 3..5"),
        (["--seed=-1"], 2, "--seed must not be negative"),
        (["--taks=ATE"], 2, "unrecognized arguments: --taks=ATE"),
    ],
)
def test_bad_usage_gets_one_clear_line(tmp_path, flags, status, message):
    command = [sys.executable, "-m", "caugym_jax.generate", "--tasks=ATE", "--n=2", "--out=x.json"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_engine_imports_no_jax():
    code = "import sys, caugym_jax.generate; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_all_prompts_of_a_variant_that_may_lack_say_so(tmp_path):
    """Whether a prompt of the hard variant has the hint must not tell its answer."""
    run(tmp_path / "h.jsonl", "--for=sft", "--variant=hard", "--n=21")
    rows = [json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    lacking = [row["completion"][0]["content"].endswith("LACK_CONDITION") for row in rows]
    assert any(lacking) and not all(lacking)
    assert all(row["prompt"][0]["content"].endswith("as final answer.") for row in rows)


def solutions(path, *flags):
    run(path, "--tasks=ATE,CDE,ETT,NDE,NIE,PN,PS", "--n=71", *flags)
    return [json.loads(line) for line in path.read_text().splitlines()]


def right(row, messages):
    (said,) = messages
    assert said["role"] == "assistant"
    return strict(said["content"], from_text(asked(row), row["answer"], row["Type"]))


def asked(row):
    (message,) = row["prompt"]
    return message["content"].rpartition("\nLet's think step by step.")[0]


def test_dpo_rows_prefer_right_to_wrong(tmp_path):
    rows = solutions(tmp_path / "dpo.jsonl", "--for=dpo")
    assert len(rows) == 71
    for row in rows:
        assert right(row, row["chosen"]) and not right(row, row["rejected"])
        assert row["kind"] in KINDS
    assert rows == solutions(tmp_path / "again.jsonl", "--for=dpo")
    other = solutions(tmp_path / "other.jsonl", "--for=dpo", "--variant=insufficient")
    assert all(row["prompt"][0]["content"].endswith("as final answer.") for row in other)


def test_kto_rows_are_right_and_wrong_one_to_one(tmp_path):
    rows = solutions(tmp_path / "kto.jsonl", "--for=kto")
    for row in rows:
        assert right(row, row["completion"]) is row["label"]
        assert row["kind"] in KINDS if not row["label"] else row["kind"] == "right"
    labels = [row["label"] for row in rows]
    assert all(sum(labels[: 2 * k]) == k for k in range(36))
    assert len({tuple(labels[2 * k : 2 * k + 2]) for k in range(35)}) == 2  # either comes first
    assert len({asked(row) for row in rows}) == 71


@pytest.mark.parametrize("purpose", ["dpo", "kto"])
def test_rows_are_the_same_in_parquet(tmp_path, purpose):
    pq = pytest.importorskip("pyarrow.parquet")
    rows = solutions(tmp_path / "a.jsonl", f"--for={purpose}")
    run(tmp_path / "a.parquet", "--tasks=ATE,CDE,ETT,NDE,NIE,PN,PS", "--n=71", f"--for={purpose}")
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == rows
