"""The report's page: HTML and SVG, no script, nothing from elsewhere."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from caugym_jax.causal.engine.solving import truth
from caugym_jax.data.solutions import checking
from caugym_jax.data.solutions.conditions import plan_for
from caugym_jax.evals.accuracy import Answered
from caugym_jax.evals.paper import BASE_BY_METHOD, GRPO_14B, paper_set
from caugym_jax.evals.suites import Question, right
from caugym_jax.pages import svg
from caugym_jax.pages.comparison import colour_of, comparison
from caugym_jax.pages.gather import Evaluation, Found, Run, mean_and_interval
from caugym_jax.pages.parts import percent, shade, table
from caugym_jax.pages.svg import Dot, Line, escape, number
from caugym_jax.rewards.answer import expected, extract, is_right
from caugym_jax.types import TASKS, Problem

TRANSCRIPTS = 6  # of an evaluation's set: wrong answers first
OF_A_STUDY = 3  # of each model and set of a study
LONGEST = 4_000  # characters shown of one text
HEALTH = {
    "entropy": "entropy, nats a token",
    "kl": "KL to the first model",
    "objective/kl": "KL of a completion",
    "completions/clipped_ratio": "completions cut off",
    "frac_reward_zero_std": "groups without a signal",
    "grad_norm": "gradient norm",
}
TIMES = {
    "time/sampling": "sampling",
    "time/rewards": "rewards",
    "time/place": "placing weights",
    "time/update": "update",
    "time/evaluate": "evaluation",
}


class Page:
    """Sections as they are added, and the charts among them by name."""

    def __init__(self) -> None:
        self.sections: list[tuple[str, str]] = []
        self.charts: dict[str, str] = {}

    def chart(self, name: str, title: str, drawn: str, table: str = "") -> str:
        """A figure with its data below, under a unique name."""
        key = base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        while key in self.charts:
            key = f"{base}-{len(self.charts)}"
        self.charts[key] = svg.standalone(drawn)
        below = f"<details><summary>Numbers</summary>{table}</details>" if table else ""
        return f"<figure><figcaption>{escape(title)}</figcaption>{drawn}{below}</figure>"

    def add(self, title: str, body: str) -> None:
        if body:
            self.sections.append((title, body))


def page(found: Found) -> tuple[str, dict[str, str]]:
    """(the page's HTML, {name: chart as an SVG file's text})."""
    made = Page()
    alone = [run for run in found.runs if run.study is None]
    others = [one for one in found.evaluations if one.study is None]
    picked = alone + [run for run in found.runs if run.study and run.study.shows(run.path)]
    shown = others + [
        one for one in found.evaluations if one.study and one.study.shows(one.path.parent)
    ]
    made.add("Summary", tiles(alone, others))
    for study in found.studies:
        made.add("Study", comparison(made, study))
    made.add("Accuracy by task and set", heat_maps(others))
    made.add("Methods", methods(made, alone))
    made.add("Learning curves", curves(made, found.runs))
    made.add("Health", health(made, found.runs))
    made.add("The two scorers", scorers(made, others))
    made.add("Saying that a number is missing", lacking(made, others))
    made.add("What goes wrong", failures(made, others))
    made.add("One prompt and its samples", "".join(map(samples, picked)))
    made.add("Answers", "".join(map(transcripts, shown)))
    made.add("The data, audited", audits(found.audits))
    made.add("Where the time goes", times(made, found.runs))
    made.add("Settings", "".join(map(settings, picked)))
    links = "".join(
        f'<a href="#s{i}">{escape(title)}</a>' for i, (title, _) in enumerate(made.sections)
    )
    body = "".join(
        f'<section id="s{i}"><h2>{escape(title)}</h2>{text}</section>'
        for i, (title, text) in enumerate(made.sections)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width,initial-scale=1"><meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<title>caugym_jax report</title><style>{svg.STYLE}</style></head><body>"
        f"<h1>Report</h1><nav>{links}</nav>{body}</body></html>\n",
        made.charts,
    )


def accuracy(probed: dict[str, Any] | None) -> tuple[float, float, float] | None:
    """(share right, low, high) of held-out problems."""
    return mean_and_interval(map(float, probed["right"])) if probed and probed["right"] else None


def gain(run: Run) -> tuple[float, float, float] | None:
    """The paired gain in held-out accuracy, with its 95 % interval; None where not both are known.

    mean(d) +- 1.96 sd(d) / sqrt(n), d = after - before; within [-1, 1].
    """
    if run.before is None or run.after is None:
        return None
    pairs = list(zip(run.before["right"], run.after["right"], strict=False))
    if not pairs:
        return None
    mean, low, high = mean_and_interval((1 + float(b) - float(a)) / 2 for a, b in pairs)
    return 2 * mean - 1, 2 * low - 1, 2 * high - 1


# --- sections --------------------------------------------------------------------------------


def tiles(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> str:
    out = []
    for run in runs:
        after, before, change = accuracy(run.after), accuracy(run.before), gain(run)
        steps = int(run.lines[-1]["step"] or 0) if run.lines else 0
        planned = run.config.get("steps")
        seconds = sum(value or 0.0 for _, value in run.series("step_time"))
        notes = [f"{run.method} of {run.config.get('model.name', '?')}, seed {run.seed}"]
        notes.append(
            f"step {steps} of {planned}" + (" (not finished)" if run.after is None else "")
        )
        if before:
            notes.append(f"before: {percent(before[0])}")
        if change:
            low, high = 100 * change[1], 100 * change[2]
            notes.append(f"change {100 * change[0]:+.1f} points [{low:+.1f}, {high:+.1f}]")
        notes.append(
            f"{number(run.last('num_tokens') or 0)} tokens, {seconds / 60:.1f} minutes of steps"
        )
        if run.damaged:
            notes.append(f"{run.damaged} damaged lines were left out")
        big = percent(after[0]) if after else percent(run.last("eval/strict"))
        command = f"caugym train --config={run.method}.py --workdir={run.path}"
        out.append(_tile(run.name, big, "strict, greedy, held-out problems", notes, command))
    for one in evaluations:
        for name, entry in one.sets.items():
            error = entry["strict"].get("stderr")
            half = "" if error is None else f" ± {196 * error:.1f}"
            notes = [
                f"published rule: {percent(entry['published']['all'])}",
                f"{entry.get('n', '?')} items, {one.settings.get('samples', '?')} samples each, "
                f"temperature {one.settings.get('temperature', '?')}",
            ]
            big = percent(entry["strict"]["all"]) + half
            out.append(_tile(f"{name}", big, f"strict, {one.model}", notes, ""))
    return f'<div class="tiles">{"".join(out)}</div>' if out else ""


def _tile(name: str, big: str, what: str, notes: Sequence[str], command: str) -> str:
    text = "<br>".join(map(escape, notes))
    run = (
        f"<details><summary>Command</summary><code>{escape(command)}</code></details>"
        if command
        else ""
    )
    return (
        f'<div class="tile"><span class="soft">{escape(name)}</span><b>{escape(big)}</b>'
        f'{escape(what)}<div class="soft">{text}</div>{run}</div>'
    )


def heat_maps(evaluations: Sequence[Evaluation]) -> str:
    """One table an evaluation: strict by set and task, the published rule and the paper beside."""
    out = []
    for one in evaluations:
        rows = []
        for name, entry in one.sets.items():
            known = paper_set(name)
            for scorer in ("strict", "published"):
                by_task = entry[scorer].get("by_task", {})
                values = [entry[scorer]["all"], *(by_task.get(task) for task in TASKS)]
                rows.append([f"{name}, {scorer}", *map(shade, values)])
            if known:
                theirs = [GRPO_14B[known][key] for key in ("all", *TASKS)]
                rows.append(["the paper's 14B, published", *map(shade, theirs)])
                rows.append(["difference, points", *map(_difference, values, theirs)])
        if rows:
            note = escape(f"{one.model} ({one.path.name})")
            out.append(f"<h3>{note}</h3>{table(['set, scorer', 'all', *TASKS], rows)}")
    if not out:
        return ""
    return (
        '<p class="soft">Percent of items. <i>strict</i> reads the final answer and its verdict; '
        "<i>published</i> is the rule of the released scripts, by which the paper's figures (GRPO, "
        "14B) are made; the difference compares by that rule.</p>" + "".join(out)
    )


def _difference(ours: float | None, theirs: float) -> tuple[str, str]:
    if ours is None:
        return "", "–"
    better = ours >= theirs
    return f"color:var(--{'good' if better else 'bad'})", f"{100 * (ours - theirs):+.1f}"


def methods(made: Page, runs: Sequence[Run]) -> str:
    """Every method's runs as dots, where there is more than one run."""
    rows: dict[str, list[Dot]] = {}
    for run in runs:
        for name, figure in (
            ("before training", accuracy(run.before)),
            (run.method, accuracy(run.after)),
        ):
            if figure is not None:
                rows.setdefault(name, []).append(Dot(*figure, note=f"seed {run.seed}, {run.name}"))
    if len(runs) < 2 or not rows:
        return ""
    marks = [("o3 in the paper (base set)", BASE_BY_METHOD["o3"])]
    title = "Strict accuracy on held-out problems, every run with its 95 % interval"
    cells = [
        [name, percent(dot.value), percent(dot.low), percent(dot.high), dot.note]
        for name, values in rows.items()
        for dot in values
    ]
    numbers = table(["method", "strict", "low", "high", "run"], cells)
    return made.chart(
        "methods", title, svg.dots(title, list(rows.items()), "strict", marks), numbers
    )


def curves(made: Page, runs: Sequence[Run]) -> str:
    """Held-out accuracy and reward or loss, by step, by token and by second."""
    shown = [
        (key, title)
        for key, title in (
            ("eval/strict", "strict accuracy, held-out"),
            ("reward", "mean reward"),
            ("loss", "loss"),
        )
        if any(run.series(key) for run in runs)
    ]
    if not shown:
        return ""
    tabs = []
    for i, (name, place) in enumerate(
        (("by step", _by_step), ("by token", _by_token), ("by second", _by_second))
    ):
        figures = "".join(
            made.chart(
                f"{key} {name}",
                f"{title}, {name}",
                svg.lines(
                    f"{title}, {name}",
                    _named([place(0, run, key) for run in runs if run.series(key)], runs, key),
                    name.removeprefix("by ") + "s",
                    title,
                    percent=key.startswith("eval/"),
                ),
            )
            for key, title in shown
        )
        tabs.append(
            f'<input type="radio" name="curves" id="curves{i}"{" checked" * (i == 0)}>'
            f'<label for="curves{i}">{name}</label>',
        )
        tabs.append(f'<div class="tab pair">{figures}</div>')
    inputs, bodies = "".join(tabs[::2]), "".join(tabs[1::2])
    note = '<p class="soft">Dashed: longer runs, at equal compute.</p>'
    return note * any(run.longer for run in runs) + f'<div class="tabs">{inputs}{bodies}</div>'


def _named(lines: Sequence[Line], runs: Sequence[Run], key: str) -> list[Line]:
    """The lines of the runs that have the metric; a study's runs have their method's name and
    colour, dashed at equal compute, others their own.
    """
    shown = [run for run in runs if run.series(key)]
    own = {name: i for i, name in enumerate(dict.fromkeys(r.name for r in runs if not r.study))}
    return [
        dataclasses.replace(
            line,
            name=run.method if run.study else run.name,
            colour=colour_of(run.method) if run.study else own[run.name],
            dashed=run.longer,
        )
        for line, run in zip(lines, shown, strict=True)
    ]


def _by_step(i: int, run: Run, key: str) -> Line:
    points = run.series(key)
    return Line(run.name, [x for x, _ in points], [y for _, y in points], i)


def _by_token(i: int, run: Run, key: str) -> Line:
    return _by_total(i, run, key, "tokens")


def _by_second(i: int, run: Run, key: str) -> Line:
    return _by_total(i, run, key, "step_time")


def _by_total(i: int, run: Run, key: str, amount: str) -> Line:
    """A metric against the sum of another one up to that step."""
    total, at = 0.0, {0.0: 0.0}
    for step, value in run.series(amount):
        total += value or 0.0
        at[step] = total
    points = [(at.get(step, total), y) for step, y in run.series(key)]
    return Line(run.name, [x for x, _ in points], [y for _, y in points], i)


def health(made: Page, runs: Sequence[Run]) -> str:
    """Small charts of what goes wrong first, and the alarms."""
    figures = "".join(
        made.chart(
            key,
            title,
            svg.lines(
                title,
                _named([_by_step(0, r, key) for r in runs if r.series(key)], runs, key),
                "steps",
                "",
            ),
        )
        for key, title in HEALTH.items()
        if any(run.series(key) for run in runs)
    )
    alarms = [
        f'<li>{escape(run.name)}, step {step}: <span class="bad">{escape(text)}</span></li>'
        for run in runs
        for step, text in run.alarms()
    ]
    listed = f"<ul>{''.join(alarms)}</ul>" if alarms else "<p>No alarm was raised.</p>"
    return f'<div class="pair">{figures}</div>{listed}' if runs else ""


def _sets(evaluations: Sequence[Evaluation]) -> list[tuple[str, dict[str, Any]]]:
    """(label, entry) of every set; the model is named where there are several evaluations."""
    several = len(evaluations) > 1
    return [
        (f"{name} ({one.path.name})" if several else name, entry)
        for one in evaluations
        for name, entry in one.sets.items()
    ]


def scorers(made: Page, evaluations: Sequence[Evaluation]) -> str:
    rows = [(n, e["published"]["all"], e["strict"]["all"]) for n, e in _sets(evaluations)]
    rows = [row for row in rows if None not in row]
    if not rows:
        return ""
    title = "Published minus strict, points: what a right number anywhere in the text is worth"
    cells = [[n, percent(p), percent(s), f"{100 * (p - s):+.1f}"] for n, p, s in rows]
    drawn = svg.dots(
        title, [(n, [Dot(s, s, p, "strict"), Dot(p, note="published")]) for n, p, s in rows], ""
    )
    return made.chart(
        "scorers", title, drawn, table(["set", "published", "strict", "difference"], cells)
    )


def lacking(made: Page, evaluations: Sequence[Evaluation]) -> str:
    rows = [(n, e.get("lack"), e.get("false_lack")) for n, e in _sets(evaluations)]
    cells = [[n, percent(right), percent(false)] for n, right, false in rows]
    if not any(x is not None for _, *pair in rows for x in pair):
        return ""
    return table(["set", "LACK_CONDITION where right", "LACK_CONDITION where wrong"], cells)


def failures(made: Page, evaluations: Sequence[Evaluation]) -> str:
    """Kinds of failures by set, where the evaluation assigned them."""
    rows = [
        (n, e["failures"]) for n, e in _sets(evaluations) if isinstance(e.get("failures"), dict)
    ]
    kinds = list(dict.fromkeys(kind for _, counted in rows for kind in counted))
    if not kinds:
        return ""
    values = [(name, [float(counted.get(kind) or 0.0) for kind in kinds]) for name, counted in rows]
    title = "Wrong answers by the first step that is wrong, share of all answers"
    cells = [[name, *map(percent, shares)] for name, shares in values]
    return made.chart(
        "failures", title, svg.stacked(title, values, kinds, "%"), table(["set", *kinds], cells)
    )


def samples(run: Run) -> str:
    """The newest logged prompt with all its samples."""
    if not run.samples:
        return ""
    last = run.samples[-1]
    group = [
        s
        for s in run.samples
        if (s.get("step"), s.get("prompt")) == (last.get("step"), last.get("prompt"))
    ]
    parts = sorted({k for s in group for k in s if k.startswith("rewards/")})
    out = []
    for one in sorted(group, key=lambda s: -float(s.get("reward") or 0.0)):
        figures = [f"reward {number(float(one.get('reward') or 0.0))}"]
        figures += [f"{key.removeprefix('rewards/')} {one.get(key)}" for key in parts]
        if isinstance(one.get("advantage"), int | float):
            figures.append(f"advantage {one['advantage']:+.3f}")
        text = shortened(one.get("completion", ""))
        out.append(
            f"<details><summary>{escape(', '.join(figures))}</summary><pre>{text}</pre></details>"
        )
    title = f"{run.name}, step {last.get('step')}"
    prompt, truth = shortened(last.get("prompt", "")), escape(last.get("answer", "–"))
    head = f"<h3>{escape(title)}</h3><pre>{prompt}</pre><p>Truth: <code>{truth}</code></p>"
    return head + "".join(out)


def shortened(text: Any) -> str:
    """Escaped text of at most LONGEST characters, its middle left out."""
    text = str(text)
    if len(text) > LONGEST:
        left_out = f"\n[… {len(text) - LONGEST:,} characters …]\n"
        text = text[: LONGEST // 2] + left_out + text[-LONGEST // 2 :]
    return escape(text)


def transcripts(evaluation: Evaluation) -> str:
    """Some answered items of each set: the first sample of each, wrong ones first."""
    out = []
    for name in evaluation.sets:
        judged = [(_right(item), item) for item in evaluation.answers(name) if item.completions]
        most = TRANSCRIPTS if evaluation.study is None else OF_A_STUDY
        wrong = [pair for pair in judged if not pair[0]][: most - most // 3]
        right = [pair for pair in judged if pair[0]]
        out += [_transcript(name, item, ok) for ok, item in (wrong + right)[:most]]
    text = "".join(out)
    if evaluation.study is None or not text:
        return text
    of = escape(f"{evaluation.path.parent.name}, {evaluation.path.name}")
    return f'<details class="group"><summary>{of}</summary>{text}</details>'


def _right(item: Answered) -> bool:
    cut = bool(item.truncated and item.truncated[0])
    if isinstance(item.problem, Question):
        return right(item.problem, item.completions[0], cut)
    return is_right(extract(item.completions[0], cut), expected(item.problem))


def _transcript(name: str, item: Answered, ok: bool) -> str:
    problem = item.problem
    head = f"{mark(ok)} {escape(name)}, {escape(problem.task)}"
    if isinstance(problem, Question):
        graph, answered = "", f"<pre>{shortened(item.completions[0])}</pre>"
    else:
        graph, answered = drawn_graph(problem), steps(problem, item.completions[0])
    return (
        f"<details><summary>{head}</summary>{graph}<pre>{shortened(problem.text)}</pre>{answered}"
        f"<p>Truth: <code>{escape(problem.answer)}</code></p></details>"
    )


def mark(ok: bool) -> str:
    return f'<span class="{"good" if ok else "bad"}">{"✓ right" if ok else "✗ wrong"}</span>'


def drawn_graph(problem: Problem) -> str:
    """The problem's graph, treatment, outcome, adjusters and mediators coloured."""
    solved = truth(problem)
    if problem.story is None or solved is None:
        return ""
    story, query = problem.story, solved.query
    roles = dict.fromkeys(range(len(story.names)), "other")
    roles |= dict.fromkeys(query.mediators, "mediator") | dict.fromkeys(query.adjusters, "adjusted")
    roles |= {query.x: "treatment", query.y: "outcome"}
    named = {name: roles[node] for node, name in enumerate(story.names)}
    edges = [(story.names[a], story.names[b]) for a, b in story.edges]
    title = "Graph: treatment blue, outcome orange, adjusted for green, mediator purple"
    drawing = svg.graph(title, edges, named)
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}</figure>"


def steps(problem: Problem, text: str) -> str:
    """A completion; where it is in the notation of solutions, each step ticked or crossed."""
    plan = plan_for(problem) if checking.in_notation(text) else None
    if plan is None:
        return f"<pre>{shortened(text)}</pre>"
    lines = [
        f"{'✓' if step.right else f'✗ ({step.kind})'} {step.text.strip()}"
        for step in checking.check(text, plan)
    ]
    return f"<pre>{shortened(chr(10).join(lines))}</pre>"


def audits(found: dict[str, dict[str, Any]]) -> str:
    rows = [
        [
            name,
            audit.get("n", "–"),
            audit.get("unread", "–"),
            percent((audit.get("prob") or {}).get("all")),
            percent((audit.get("verdict") or {}).get("all")),
            percent(audit.get("shortcut")),
            percent(audit.get("constant")),
            len(audit.get("defects") or []),
        ]
        for name, audit in found.items()
    ]
    header = [
        "file",
        "n",
        "unread",
        "number agrees",
        "verdict agrees",
        "graph-free rule",
        "best constant",
        "defects",
    ]
    return table(header, rows) if rows else ""


def times(made: Page, runs: Sequence[Run]) -> str:
    """Seconds of a run by what they went to."""
    names = [*TIMES.values(), "the rest"]
    found: dict[str, list[list[float]]] = {}
    for run in runs:
        parts = [sum(v or 0.0 for _, v in run.series(key)) for key in TIMES]
        whole = sum(v or 0.0 for _, v in run.series("step_time"))
        inside = sum(part for part, key in zip(parts, TIMES, strict=True) if key != "time/evaluate")
        found.setdefault(run.label, []).append([*parts, max(0.0, whole - inside)])
    if not found:
        return ""
    rows = [
        (name, [sum(column) / len(column) for column in zip(*several, strict=True)])
        for name, several in found.items()
    ]
    title = "Seconds of a run's steps and evaluations, on average"
    cells = [[name, *(f"{v:.1f}" for v in values)] for name, values in rows]
    return made.chart(
        "time", title, svg.stacked(title, rows, names, "seconds"), table(["run", *names], cells)
    )


def settings(run: Run) -> str:
    rows = [[key, value] for key, value in sorted(run.config.items())]
    return (
        f"<details><summary>{escape(run.name)}</summary>{table(['key', 'value'], rows)}</details>"
    )
