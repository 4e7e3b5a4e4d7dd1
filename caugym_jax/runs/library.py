"""Models and training runs from Python: docs/library.md.

jax is imported when a model is opened or a run started, not before.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caugym_jax.errors import UserError
from caugym_jax.types import Conversation, Problem

if TYPE_CHECKING:
    import jax
    import numpy as np

    from caugym_jax.runs.opening import Opened
    from caugym_jax.sampling.sampler import Sampler

# A problem, a conversation, or the text of a single message.
Question = Problem | Sequence[Mapping[str, str]] | str

NEW_TOKENS = 1024  # of an answer, where no number is given and the model takes as many
TOGETHER = 16  # questions sampled at a time
ROUND = 32  # sequences to score are filled up to a multiple of this, so that few programs compile


def load(
    name: str | Path,
    *,
    step: int | None = None,
    dtype: str | None = None,
    fsdp: int = 1,
    tensor: int = 1,
) -> LoadedModel:
    """Opens a model on this machine's devices.

    Args:
      name: "embedded" or "embedded-start" (in the package), a run's workdir, a Hugging Face folder,
        a GGUF file, a preset's name or a hub id.
      step: which checkpoint of a workdir; None: the newest.
      dtype: "float32" or "bfloat16"; None: bfloat16 on accelerators, float32 on a CPU.
      fsdp, tensor: over how many devices the weights are spread.

    Raises:
      UserError: there is no such model, or it cannot be read.
    """
    from caugym_jax.devices.mesh import make_mesh
    from caugym_jax.runs.opening import ModelSettings, open_model

    mesh = make_mesh(data=-1, fsdp=fsdp, tensor=tensor)
    settings = ModelSettings(str(name), dtype=dtype, step=step)
    return LoadedModel(open_model(settings, mesh), mesh)


class LoadedModel:
    """A model ready to answer, as `load` opens it."""

    def __init__(self, opened: Opened, mesh: jax.sharding.Mesh):
        assert opened.params is not None  # `load` asks for them
        self.model, self.tokenizer = opened.model, opened.tokenizer
        self.params = opened.params
        self.mesh = mesh
        self._samplers: dict[tuple[int, int], Sampler] = {}

    def ask(self, question: Question, **options: Any) -> list[str]:
        """The `samples` answers to one question; options as of `ask_all`."""
        return self.ask_all([question], **options)[0]

    def ask_all(
        self,
        questions: Sequence[Question],
        *,
        samples: int = 1,
        temperature: float = 0.6,
        top_p: float = 0.95,
        top_k: int = 0,
        min_p: float = 0.0,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ) -> list[list[str]]:
        """The answers to each question: texts, without the end token.

        An answer is a function of the model, the question, its place in the list, the options and
        the seed.

        Args:
          questions: problems (asked as in training: "Let's think step by step."), conversations
            ([{"role": "user", "content": ...}, ...]), or texts, each the only message of one.
          samples: answers to each question.
          temperature: 0 takes the most probable token each time.
          top_p, top_k, min_p: which tokens are drawn from; 1, 0 and 0: all.
          max_new_tokens: longest answer in tokens; None: 1024, or what the model takes.

        Raises:
          UserError: an option out of range, or a question that the model cannot take.
        """
        prompts = [self._prompt(question) for question in questions]
        rollout = self._sampler(max_new_tokens, len(prompts))(
            self.params,
            prompts,
            ids=range(len(prompts)),
            seed=seed,
            samples_per_prompt=samples,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
        )
        P = rollout.prompt_width
        texts = [
            self.tokenizer.decode_completion(row[P : P + length])
            for row, length in zip(rollout.tokens, rollout.completion_length, strict=True)
        ]
        return [texts[i : i + samples] for i in range(0, len(texts), samples)]

    def score(self, prompt: Question, completion: str) -> np.ndarray:
        """How probable a completion is: the log-probability of each of its tokens, at temperature
        1, with the end token as the last one.

            score_t = log p(token_t | prompt, tokens before t)      in nats, [tokens] float32

        The sum is the log-probability of the completion; exp(-mean) is its perplexity.

        Raises:
          UserError: the tokens of prompt and completion merge, or do not fit the model.
        """
        import jax
        import numpy as np

        from caugym_jax.data.prompts import reply_tokens
        from caugym_jax.devices.mesh import fetch, put, row_count, rows

        before = self._prompt(prompt)
        tokens = [*before, *reply_tokens(self._messages(prompt), completion, self.tokenizer)]
        longest = self.model.config.longest
        if len(tokens) > longest:
            raise UserError(
                f"prompt and completion have {len(tokens)} tokens, the model takes {longest}"
            )
        width = min(-(-len(tokens) // ROUND) * ROUND, longest)
        row = np.full(width, self.tokenizer.pad_id, np.int32)
        row[: len(tokens)] = tokens
        places = np.arange(width, dtype=np.int32)
        segments = (places < len(tokens)).astype(np.int32)
        with jax.set_mesh(self.mesh):
            copies = [np.tile(x, (row_count(self.mesh), 1)) for x in (row, places, segments)]
            logprobs = fetch(self._score(self.params, *put(copies, rows(self.mesh))))
        return np.asarray(logprobs)[0, len(before) - 1 : len(tokens) - 1]

    def save(self, folder: str | Path, *, dtype: str = "float32") -> Path:
        """Writes a Hugging Face folder, which `transformers` (or vLLM, TRL) loads.

        Raises:
          UserError: the folder holds something, or cannot be written.
        """
        from caugym_jax.models.save import save_pretrained

        config, tokenizer = self.model.config, self.tokenizer
        return save_pretrained(folder, config, self.params, tokenizer=tokenizer, dtype=dtype)

    @functools.cached_property
    def _score(self) -> Any:
        from caugym_jax.devices.programs import Program
        from caugym_jax.objectives.logprobs import score

        return Program(
            "score",
            lambda params, *rows: score(self.model, params, *rows).logprobs,
            "the length of prompt and completion",
        )

    def _sampler(self, max_new_tokens: int | None, questions: int) -> Sampler:
        from caugym_jax.devices.mesh import sampling_mesh
        from caugym_jax.sampling.sampler import Sampler

        if max_new_tokens is None:
            max_new_tokens = min(NEW_TOKENS, self.model.config.longest - 1)
        key = max_new_tokens, min(questions, TOGETHER)
        if key not in self._samplers:
            self._samplers[key] = Sampler(
                self.model,
                end_ids=self.tokenizer.end_ids,
                pad_id=self.tokenizer.pad_id,
                max_new_tokens=max_new_tokens,
                batch_size=key[1],
                mesh=sampling_mesh(self.mesh),
            )
        return self._samplers[key]

    def _messages(self, question: Question) -> Conversation:
        from caugym_jax.data.items import asked

        if isinstance(question, Problem):
            return asked(question)
        if isinstance(question, str):
            return ({"role": "user", "content": question},)
        return tuple(question)

    def _prompt(self, question: Question) -> list[int]:
        from caugym_jax.data.prompts import prompt_tokens

        return prompt_tokens(self._messages(question), self.tokenizer)


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run that has ended."""

    workdir: Path
    summary: str  # accuracy before and after, and answered problems

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, oldest first; docs/metrics.md explains every key."""
        return _lines(self.workdir / "metrics.jsonl")

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The lines of samples.jsonl: prompts and completions with their rewards."""
        return _lines(self.workdir / "samples.jsonl")

    @functools.cached_property
    def model(self) -> LoadedModel:
        """The trained model, from the newest checkpoint."""
        return load(self.workdir)


def train(
    config: Any, workdir: str | Path | None = None, settings: Mapping[str, Any] | None = None
) -> Run:
    """Trains as the command does: resumes by itself, and returns at once where the run has ended.

    Progress goes to standard error. A run of several processes needs the command.

    Args:
      config: "grpo.py", "grpo.py:MODEL" or the path of a file with `get_config`; or what such a
        function returns, or a settings class (`runs.settings`), and then with a workdir and
        without settings.
      workdir: the run's folder; None: runs/<config>.
      settings: {"steps": 20, "optim.peak": 1e-4, ...} to set in the configuration.

    Raises:
      UserError: a setting, the data, the model or the workdir cannot be used.
      SystemExit: SIGTERM came; the run is saved.
    """
    from caugym_jax.runs.folder import default_workdir
    from caugym_jax.runs.settings import Settings, from_values
    from caugym_jax.runs.settings import load as load_settings

    if isinstance(config, str | Path):
        workdir = workdir or default_workdir(str(config))
        config = load_settings(str(config), _overrides(settings or {}))
    elif workdir is None or settings:
        raise UserError("train: a configuration object needs a workdir, and holds its settings")
    elif not isinstance(config, Settings):
        config = from_values(config)
    from caugym_jax.runs import loop

    workdir = Path(workdir)
    return Run(workdir, loop.train(config, workdir))


def _overrides(settings: Mapping[str, Any]) -> list[str]:
    """As on the command line: KEY=VALUE."""
    return [
        f"{key}={value if isinstance(value, str) else repr(value)}"
        for key, value in settings.items()
    ]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
