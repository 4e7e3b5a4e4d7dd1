"""Configurations: loading, overrides and their types, wrong keys, differences."""

import argparse
import dataclasses
from collections.abc import Mapping

import ml_collections
import pytest

from caugym_jax.cli import config as configs
from caugym_jax.cli.config import Text
from caugym_jax.errors import UserError, require


@pytest.fixture
def own(tmp_path):
    """A configuration file of the user's own."""
    path = tmp_path / "own.py"
    path.write_text(
        "import ml_collections\n"
        "def get_config(arg=None):\n"
        "    c = ml_collections.ConfigDict()\n"
        "    c.arg = str(arg)\n"
        "    c.steps = 10\n"
        "    c.data = dict(tasks=('ATE',), path=ml_collections.config_dict.placeholder(str))\n"
        "    return c\n"
    )
    return path


def test_a_file_s_values_and_overrides(own):
    assert configs.read(f"{own}:tiny") == {
        "arg": "tiny", "steps": 10, "data": {"tasks": ("ATE",), "path": None},
    }  # fmt: skip
    found = configs.read(str(own), ["steps=20", "data.tasks=ATE,ETT", "optim.peak=0.1"])
    assert found["steps"] == "20" and type(found["steps"]) is Text
    assert found["data"] == {"tasks": "ATE,ETT", "path": None}
    assert found["optim"] == {"peak": "0.1"}
    assert configs.read(str(own), ["data.path=a=b"])["data"]["path"] == "a=b"


def test_a_file_may_return_a_plain_dictionary_and_need_no_ending(tmp_path, monkeypatch):
    (tmp_path / "plain.py").write_text(
        "VALUES = {'method': 'sft', 'optim': {'peak': 1}}\n"
        "def get_config(arg=None):\n"
        "    return VALUES\n"
    )
    monkeypatch.chdir(tmp_path)
    assert configs.read("plain", ["optim.peak=2"])["optim"] == {"peak": "2"}
    assert configs.read("plain.py") == {"method": "sft", "optim": {"peak": 1}}  # not changed
    assert configs.read("grpo") == configs.read("grpo.py")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data=3", "--config.data is a section: set one of path, tasks"),
        ("steps.more=1", "config.steps has no key 'more': it is no section"),
        ("steps", "write --config.steps=VALUE"),
    ],
)
def test_wrong_overrides_are_refused(own, override, message):
    with pytest.raises(UserError) as error:
        configs.read(str(own), [override])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_unknown_names_give_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"no configuration 'gpro.py'.*did you mean 'grpo.py'"):
        configs.read("gpro.py")
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    with pytest.raises(UserError, match="defines no get_config"):
        configs.read(str(empty))
    empty.write_text("def get_config(arg):\n    pass\n")
    with pytest.raises(UserError, match="returns None: it must return a mapping"):
        configs.read(str(empty))
    assert configs.nearest("zzz", ["b", "a"]) == "known: a, b"


def parse(*argv):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir")
    return configs.parse(parser, argv)


def test_overrides_stand_anywhere_with_or_without_an_equals_sign():
    argv = ["--config.steps", "3", "--config=grpo", "--config.mesh.data=-1", "--workdir", "a"]
    options, overrides = parse(*argv, "--config.mesh.fsdp", "-1")
    assert (options.config, options.workdir) == ("grpo", "a")
    assert overrides == ["steps=3", "mesh.data=-1", "mesh.fsdp=-1"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config.steps", "--workdir=a"], "--config.steps: write --config.steps=VALUE"),
        (["--config.steps"], "--config.steps: write --config.steps=VALUE"),
        (["--stesp=3"], "unrecognized arguments: --stesp=3"),
    ],
)
def test_bad_usage_ends_with_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--config=grpo", *argv)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_configuration_imports_the_shipped_ones_and_never_the_folder_s(tmp_path, monkeypatch):
    own = tmp_path / "configs"
    own.mkdir()
    (own / "__init__.py").write_text("raise AssertionError('imported')\n")
    (tmp_path / "mine.py").write_text(
        "from caugym_jax.configs import grpo\n"
        "def get_config(arg=None):\n"
        "    config = grpo.get_config(arg)\n"
        "    config.steps = 7\n"
        "    return config\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert configs.read("mine.py")["steps"] == 7
    assert configs.read("mine.py")["grpo"] == configs.read("grpo.py")["grpo"]


def test_a_configuration_is_a_python_file(tmp_path):
    (tmp_path / "notes.txt").write_text("steps: 3\n")
    with pytest.raises(UserError, match="is no Python file"):
        configs.read(str(tmp_path / "notes.txt"))


def test_differences_by_hand():
    new = {"steps": 3, "data.tasks": ["ATE"], "data.seed": 1}
    old = {"steps": 9, "data.tasks": ["ETT"], "data.gone": 5, "data.seed": 1}
    assert configs.differences(old, new, ["steps"]) == [
        "data.gone: 5 -> (absent)",
        "data.tasks: ['ETT'] -> ['ATE']",
    ]
    assert configs.differences(old, new, ["steps", "data"]) == []
    assert configs.differences({"stepsize": 1}, {"stepsize": 2}, ["steps"]) == ["stepsize: 1 -> 2"]


@dataclasses.dataclass(frozen=True)
class Rate:
    peak: float = 1.0
    clip_norm: float | None = 1.0
    decay: str = "constant"
    pair: tuple[int, int] = (1, 2)

    def __post_init__(self):
        require(self, "peak", at_least=0)
        require(self, "clip_norm", above=0, hint="or none for no clipping")
        require(self, "decay", among=("constant", "none"))
        require(self, "pair", at_least=1, at_most=9)


@dataclasses.dataclass(frozen=True)
class Whole:
    steps: int = 3
    names: tuple[str, ...] = ("real",)
    shares: float | Mapping[str, float] = 0.0
    path: str | None = None
    optim: Rate = Rate()
    critic_optim: Rate = Rate()


def test_a_section_becomes_its_dataclass():
    assert configs.build(Whole, None) == Whole()
    given = {"names": ["a", "b"], "shares": {"x": 1}, "optim": {"peak": 2, "pair": [3, 4]}}
    expected = Whole(names=("a", "b"), shares={"x": 1.0}, optim=Rate(2.0, pair=(3, 4)))
    for section in (given, ml_collections.ConfigDict(given)):
        built = configs.build(Whole, section)
        assert built == expected and type(built.optim.peak) is float
    assert configs.build(Whole, {"optim": Rate(5.0)}) == Whole(optim=Rate(5.0))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "20", 20),
        ("names", "real,fake", ("real", "fake")),
        ("names", "['real']", ("real",)),
        ("names", "'a', 'b'", ("a", "b")),
        ("names", "7", ("7",)),
        ("shares", "1", 1.0),
        ("shares", "{'ATE': 1}", {"ATE": 1.0}),
        ("path", "2024", "2024"),
        ("path", "None", None),
        ("path", "'a b'", "a b"),
    ],
)
def test_text_is_read_as_the_annotation_asks(key, text, value):
    assert getattr(configs.build(Whole, {key: Text(text)}), key) == value


def test_none_is_a_word_where_text_may_not_be_absent():
    assert configs.build(Rate, {"decay": Text("none")}).decay == "none"
    assert configs.build(Rate, {"clip_norm": Text("none")}).clip_norm is None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"steps": Text("many")}, "config.steps=many: must be a whole number"),
        ({"steps": 2.5}, "config.steps=2.5: must be a whole number"),
        ({"steps": True}, "config.steps=True: must be a whole number"),
        ({"steps": None}, "config.steps=None: must be a whole number"),
        ({"path": 3}, "config.path=3: must be text or none"),
        ({"names": 5}, "config.names=5: must be texts, comma-separated"),
        ({"optim": {"pair": Text("1,2,3")}}, "must be 2 whole numbers, comma-separated"),
        ({"optim": Text("adam")}, "config.optim=adam is a section: set one of its keys"),
        ({"stesp": 3}, "config has no key 'stesp': did you mean 'steps'?"),
        ({"optim": {"paek": 3}}, "config.optim has no key 'paek': did you mean 'peak'?"),
        (
            {"peak": 3},
            "config has no key 'peak': use config.optim.peak or config.critic_optim.peak",
        ),
        ({"optim": {"steps": 3}}, "config.optim has no key 'steps': use config.steps"),
        ({"max_steps": 3}, "config has no key 'max_steps': use config.steps"),
        ({"critic_optim": {"lr": 3}}, "has no key 'lr': use config.critic_optim.peak"),
        ({"output_dir": "x"}, "config has no key 'output_dir': the run's folder is --workdir"),
        ({"optim": {"peak": -1.0}}, "config.optim.peak=-1.0: must be at least 0"),
        ({"optim": {"peak": float("nan")}}, "config.optim.peak=nan: must be at least 0"),
        ({"optim": {"peak": float("inf")}}, "config.optim.peak=inf: must be at least 0"),
        (
            {"critic_optim": {"clip_norm": 0.0}},
            "config.critic_optim.clip_norm=0.0: must be above 0, or none for no clipping",
        ),
        ({"optim": {"decay": "stairs"}}, "decay='stairs': must be one of constant, none"),
        ({"optim": {"pair": (0, 1)}}, "pair=(0, 1): must be at least 1 and at most 9"),
    ],
)
def test_wrong_settings_are_refused_by_key(section, message):
    with pytest.raises(UserError) as error:
        configs.build(Whole, section, "")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_section_on_its_own_is_named_after_its_class():
    with pytest.raises(UserError, match=r"^config.rate.peak=-1.0: must be at least 0$"):
        configs.build(Rate, {"peak": -1})
    with pytest.raises(UserError, match=r"^config.optim has no key 'paek'"):
        configs.build(Rate, {"paek": 1}, "optim")
