"""What bridges/ and rewards/bridges.py say, inside the packages that they are for.

    pip install -r requirements-bridges.txt && pytest -m torch tests/parity/test_bridges.py

Each test is skipped where its package is not installed. No model is downloaded.
"""

import asyncio
import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from caugym_jax.causal.engine.generating import generate_problems
from caugym_jax.data.files import problem_record, write_json, write_jsonl
from caugym_jax.data.rows import make_row
from caugym_jax.data.tokenizer import load_tokenizer
from caugym_jax.evaluate import main as evaluate
from caugym_jax.grade import main as grade
from caugym_jax.models.save import save_pretrained
from caugym_jax.rewards import bridges
from tests.data.byte_tokenizer import CHAT, END, save_byte_tokenizer
from tests.models.tiny import FAMILIES, random_params
from tests.shared import ROOT

pytestmark = pytest.mark.torch

PROBLEMS = list(generate_problems(("ATE", "PN"), 4, 3))
ROWS = [make_row("rl", problem, i) for i, problem in enumerate(PROBLEMS)]
REPLIES = [problem.answer if i % 2 else "Perhaps." for i, problem in enumerate(PROBLEMS)]
RIGHT = sum(reply != "Perhaps." for reply in REPLIES) / len(REPLIES)


def graded(path, out):
    """The figures of `grade` of a file's one set."""
    grade([f"--data={path}", f"--out={out}"])
    ((_, figures),) = json.loads(out.read_text())["sets"].items()
    return figures


@pytest.fixture(scope="module", autouse=True)
def one_device():
    devices = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: devices)
        yield


@pytest.fixture(scope="module")
def sevens(tmp_path_factory):
    """A model that answers \\boxed{7} to everything, and rows in GSM8K's layout.

    Its layer writes nothing: the last token alone decides on the next.
    """
    root = tmp_path_factory.mktemp("sevens")
    rows = [
        {"question": f"What is {i} + {i % 7}?", "answer": f"So\n#### {right}"}
        for i, right in enumerate(["7", "1,000", "8", "7", "-7", "12", "77", "7"])
    ]
    write_jsonl(root / "gsm8k.jsonl", rows)
    tokenizer = load_tokenizer(save_byte_tokenizer(root / "tokens", chat_template=CHAT))
    config = dataclasses.replace(
        FAMILIES["qwen3"], vocab_size=tokenizer.vocab_size, d_model=272, num_layers=1,
        max_position=256,
    )  # fmt: skip
    chain = tokenizer.encode("\n\\boxed{7}" + END)
    assert len(set(chain)) == len(chain)

    def weight(path, leaf):
        name, x = path[-1].key, np.zeros_like(leaf)
        if name.endswith("norm"):
            x += 1
        elif name == "embed":
            x[:] = np.eye(*x.shape)
        elif name == "head":
            x[chain[:-1], chain[1:]] = 1
        return x

    params = jax.tree_util.tree_map_with_path(weight, random_params(config))
    save_pretrained(root / "model", config, params, tokenizer=tokenizer)
    return root


def test_a_models_gsm8k_score_is_that_of_lm_eval(sevens, tmp_path, monkeypatch):
    """The same prompts and answers, and lm-eval's own filter and metric beside our grader."""
    lm_eval = pytest.importorskip("lm_eval", reason="requirements-bridges.txt is not installed")
    from lm_eval.loggers import EvaluationTracker

    monkeypatch.chdir(sevens)  # the task file names gsm8k.jsonl
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(sevens / "model"), "dtype": "float32"},
        tasks=["caugym_gsm8k"],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(ROOT / "bridges/lm_eval")),
        device="cpu",
        apply_chat_template=True,
        gen_kwargs="max_gen_toks=12",
        bootstrap_iters=0,
    )
    evaluate(
        [f"--model={sevens / 'model'}", "--data=gsm8k.jsonl", f"--out={tmp_path}", "--samples=1",
         "--temperature=0", "--max_new_tokens=12"]
    )  # fmt: skip
    theirs = found["results"]["caugym_gsm8k"]["exact_match,boxed"]
    ours = json.loads((tmp_path / "results.json").read_text())["sets"]["gsm8k"]["strict"]["all"]
    assert 0 < theirs < 1 and theirs == ours
    samples = found["samples"]["caugym_gsm8k"]
    answers = [json.loads(line) for line in (tmp_path / "gsm8k.jsonl").read_text().splitlines()]
    assert [s["resps"][0][0] for s in samples] == [a["all_generated_answers"][0] for a in answers]
    tracker = EvaluationTracker(output_path=str(tmp_path / "log"))
    tracker.save_results_aggregated(found, found["samples"])
    tracker.save_results_samples("caugym_gsm8k", samples)
    (log,) = (tmp_path / "log").rglob("samples_*.jsonl")
    assert graded(log, tmp_path / "grades.json")["strict"]["all"] == theirs


def test_causal_problems_in_lm_eval(tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval", reason="requirements-bridges.txt is not installed")
    from lm_eval.api.model import LM

    class Scripted(LM):
        def generate_until(self, requests, **_):
            return [REPLIES[request.doc_id] for request in requests]

        loglikelihood = loglikelihood_rolling = None

    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "base_dataset.json", [problem_record(p) for p in PROBLEMS])
    found = lm_eval.simple_evaluate(
        model=Scripted(),
        tasks=["caugym"],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(ROOT / "bridges/lm_eval")),
        bootstrap_iters=0,
    )["results"]["caugym"]
    assert found["strict,none"] == found["published,none"] == RIGHT


def test_causal_problems_in_inspect(tmp_path):
    inspect_ai = pytest.importorskip("inspect_ai", reason="requirements-bridges.txt")
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    data = tmp_path / "base_dataset.json"
    write_json(data, [problem_record(p) for p in PROBLEMS])
    outputs = [ModelOutput.from_content("mockllm/model", reply) for reply in REPLIES]
    for output in outputs:
        output.usage = ModelUsage()  # else it counts tokens with a vocabulary that it downloads
    (log,) = inspect_ai.eval(
        f"{ROOT / 'bridges/inspect/caugym.py'}@caugym",
        task_args={"data": str(data)},
        model=get_model("mockllm/model", custom_outputs=outputs),
        max_connections=1, max_samples=1, log_dir=str(tmp_path / "logs"), log_format="json",
        display="none",
    )  # fmt: skip
    assert log.status == "success", log.error
    assert log.results.scores[0].metrics["accuracy"].value == RIGHT
    assert graded(log.location.removeprefix("file://"), tmp_path / "g.json")["strict"]["all"] == (
        RIGHT
    )


def test_rewards_in_trl(sevens, tmp_path):
    """As its GRPOTrainer calls them, with the columns of rows of `generate --for=rl`."""
    trl = pytest.importorskip("trl", reason="requirements-parity.txt is not installed")
    datasets, transformers = (pytest.importorskip(x) for x in ("datasets", "transformers"))

    made = trl.GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(sevens / "model"),
        processing_class=transformers.AutoTokenizer.from_pretrained(sevens / "model"),
        reward_funcs=[bridges.answer, bridges.form],
        args=trl.GRPOConfig(
            output_dir=tmp_path, report_to="none", use_cpu=True, bf16=False,
            per_device_train_batch_size=2, num_generations=2,
        ),
        train_dataset=datasets.Dataset.from_list(ROWS),
    )  # fmt: skip
    told = [[{"role": "assistant", "content": reply}] for reply in REPLIES]
    rows = list(made.train_dataset)
    found = made._calculate_rewards(rows, [row["prompt"] for row in rows], told, [[1]] * len(told))
    want = [[float(reply != "Perhaps.")] * 2 for reply in REPLIES]
    assert found.tolist() == want


def test_rewards_in_verl():
    """As its reward loop calls them, with the file that its configuration names."""
    names = ("omegaconf", "torch", "verl", "verl.experimental.reward_loop.reward_manager.naive",
             "verl.trainer.ppo.reward")  # fmt: skip
    omegaconf, torch, verl, naive, loading = (
        pytest.importorskip(name, exc_type=ImportError) for name in names
    )
    own = {"path": str(ROOT / "caugym_jax/rewards/bridges.py"), "name": "compute_score"}
    config = omegaconf.OmegaConf.create({"reward": {"custom_reward_function": own}})
    rows = [*ROWS, {"data_source": "openai/gsm8k", "reward_model": {"ground_truth": "72"}}]
    texts = [*REPLIES, r"\boxed{72.0}"]
    tokenizer = SimpleNamespace(decode=lambda ids, **_: texts[int(ids[0])])

    async def rewards():
        manager = naive.NaiveRewardManager(config, tokenizer, loading.get_custom_reward_fn(config))
        found = []
        for i, row in enumerate(rows):
            batch = verl.DataProto.from_dict(
                tensors={
                    "responses": torch.tensor([[i]]),
                    "attention_mask": torch.ones(1, 2, dtype=torch.long),
                },
                non_tensors={
                    "data_source": [row["data_source"]],
                    "reward_model": [row["reward_model"]],
                    "extra_info": [dict(row.get("extra_info", {}))],
                },
            )
            found.append((await manager.run_single(batch))["reward_score"])
        return found

    want = [1.1 if reply != "Perhaps." else 0.0 for reply in REPLIES] + [1.0]
    assert asyncio.run(rewards()) == pytest.approx(want)


def test_an_environment_of_verifiers():
    pytest.importorskip("verifiers", reason="requirements-bridges.txt is not installed")
    env = bridges.load_environment(tasks=("ATE",), n=4)
    assert len(env.dataset) == 4
    for i, row in enumerate(env.dataset):
        reply = row["answer"] if i % 2 else "Perhaps."
        state = dict(row) | {
            "completion": [{"role": "assistant", "content": reply}],
            "trajectory": [],
            "timing": {"scoring_ms": 0.0, "total_ms": 0.0},
        }
        asyncio.run(env.rubric.score_rollout(state))
        assert state["reward"] == pytest.approx(1.1 if i % 2 else 0.0)
        assert state["metrics"]["answer"] == float(i % 2)
