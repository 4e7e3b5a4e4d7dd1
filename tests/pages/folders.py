"""Folders as runs and evaluations leave them, small."""

import json
from pathlib import Path

NASTY = '</pre><script>alert(1)</script><img src=x onerror=alert(2)>\x00\ud800 & "quoted"'


def make_run(path: Path, method="grpo", seed=0, steps=3, finished=True, loss=0.5) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"method": method, "seed": seed, "steps": steps}))
    lines = [{"step": 0, "eval/strict": 0.25}]
    for step in range(1, steps + 1):
        lines.append(
            {
                "step": step,
                "loss": loss,
                "reward": step / 4,
                "entropy": 1.0,
                "tokens": 100,
                "num_tokens": 100 * step,
                "step_time": 2.0,
                "time/sampling": 1.5,
                "time/update": 0.25,
            }
        )
    lines.append({"step": steps, "eval/strict": 0.75, "time/evaluate": 4.0})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (path / "metrics.jsonl").write_text(text.replace("NaN", "null"))
    row = {"step": steps, "prompt": NASTY, "completion": NASTY, "answer": "{}", "reward": 1.0}
    (path / "samples.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"reward": 0}))
    probed = {"completions": ["a"] * 4, "right": [0, 0, 0, 1]}
    (path / "before.json").write_text(json.dumps(probed))
    if finished:
        (path / "after.json").write_text(json.dumps(probed | {"right": [1, 1, 0, 1]}))
    return path


def make_study(path: Path, seeds=(0, 1), tested=True) -> Path:
    """A study of SFT and GRPO; not `tested`: one that has only begun."""
    path.mkdir(parents=True)
    settings = {"method": "study", "methods": ["sft", "grpo"], "seeds": list(seeds)}
    settings |= {"problems": 64, "tests.n": 4, "options.sft.optim.peak": 0.1}
    (path / "study.json").write_text(json.dumps(settings))
    audit = {"n": 4, "prob": {"all": 1.0}, "verdict": {"all": 1.0}, "defects": []}
    (path / "data/audit").mkdir(parents=True)
    (path / "data/audit/base.json").write_text(
        json.dumps(audit | {"shortcut": 0.75, "constant": 0.25})
    )
    if not tested:
        return path
    for name in ("start", *(f"{m}-{s}" for m in ("sft", "grpo") for s in seeds), "sft-0-compute"):
        if name != "start":
            make_run(path / name, name.split("-")[0])
        for kind in ("sampled", "greedy"):
            folder = make_evaluation(path / name / kind)
            (folder / "base_dataset.jsonl").rename(folder / "base.jsonl")
            results = json.loads((folder / "results.json").read_text())
            results["sets"] = {"base": results["sets"]["base_dataset"]}
            (folder / "results.json").write_text(json.dumps(results))
            right = [1.0, float(name != "start"), 0.5, 0.0]
            entry = {"strict": right, "published": [1.0] * 4, "graph": [1, 2, 3, 3]}
            (folder / "grades.json").write_text(json.dumps({"base": entry}))
    return path


def make_evaluation(path: Path, answer=NASTY) -> Path:
    path.mkdir(parents=True)
    entry = {
        "n": 1,
        "published": {"all": 1.0, "by_task": {"ATE": 1.0}},
        "strict": {"all": 0.5, "by_task": {"ATE": 0.5}, "stderr": 0.1},
        "lack": None,
        "false_lack": 0.0,
        "failures": {"arithmetic": 0.25, "formula": 0.25},
    }
    results = {"model": "m", "settings": {"samples": 1}, "sets": {"base_dataset": entry}}
    (path / "results.json").write_text(json.dumps(results))
    item = {
        "problem": NASTY,
        "Type": "ATE",
        "answer": '{"ANSWER": "Yes", "PROB": "0.1"}',
        "all_generated_answers": [answer],
    }
    (path / "base_dataset.jsonl").write_text(json.dumps(item) + "\n")
    return path
