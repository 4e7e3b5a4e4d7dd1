"""What processes compare before a run, and what a resumed run compares with its start."""

import json

import pytest

from caugym_jax.devices import processes
from caugym_jax.errors import UserError
from caugym_jax.runs import identity


def test_processes_that_differ_name_process_and_key(monkeypatch):
    def with_others(*others):
        def share(value):
            return [value, *(x if isinstance(value, dict) else json.dumps(x) for x in others)]

        monkeypatch.setattr(processes, "share", share)

    mine = {"config.optim.peak": 0.1, "config.steps": 3, "jax": "0.9"}
    with_others(mine, mine | {"config.optim.peak": 0.2, "config.steps": 4})
    with pytest.raises(UserError) as told:
        identity.agree(mine)
    assert str(told.value) == (
        "config.optim.peak is 0.2 in process 2 and 0.1 in process 0 (also config.steps): start all "
        "processes with the same command, package and files"
    )
    with_others({"config.optim.peak": 0.1, "config.steps": 3})
    with pytest.raises(UserError, match=r"^jax is None in process 1 and '0.9' in process 0: start"):
        identity.agree(mine)
    monkeypatch.setattr(processes, "share", lambda value: [value, value])
    identity.agree(mine)


def test_digests_of_files_see_contents_and_not_names(tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_bytes(bytes(10**6))
    two.write_bytes(bytes(10**6))
    assert identity.digest(one) == identity.digest(two)
    two.write_bytes(bytes(500_000) + b"1" + bytes(499_999))
    assert identity.digest(one) != identity.digest(two)
    settings = {"data.path": f"{one},{two}", "model.name": "embedded", "seed": 1}
    assert list(identity.files(settings)) == ["data.path"]
    assert identity.files({"data.path": "hf:a/b", "evaluation.path": None}) == {}
    before = identity.files({"model.name": str(tmp_path)})
    (tmp_path / "three.safetensors").write_bytes(b"x")
    assert identity.files({"model.name": str(tmp_path)}) != before
    (tmp_path / "checkpoints").mkdir()  # a run: of a live one all but its model changes
    (tmp_path / "model").mkdir()
    before = identity.files({"model.name": str(tmp_path)})
    (tmp_path / "metrics.jsonl").write_text("{}")
    assert identity.files({"model.name": str(tmp_path)}) == before


def test_of_several_sources_each_is_seen_with_its_weight(tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text("1")
    two.write_text("2")

    def found(text, key="data.path"):
        return identity.files({key: text}).get(key)

    assert found(f"{one}=1,{two}=2") != found(f"{one}=2,{two}=1") != found(f"{one},{two}")
    assert found(f"{one},hf:a/b") != found(f"{one},hf:a/c")
    mixture = f"100 usual=1; 200 usual=.5 {one}=.5"
    before = found(mixture, identity.MIXTURE)
    assert found("100 usual=1", identity.MIXTURE) is None  # no file
    assert found(mixture.replace("200", "300"), identity.MIXTURE) != before
    moved = one.rename(tmp_path / "three.jsonl")
    assert found(mixture.replace(str(one), str(moved)), identity.MIXTURE) == before
    moved.write_text("3")
    assert found(mixture.replace(str(one), str(moved)), identity.MIXTURE) != before


def test_the_program_s_digest_is_that_of_its_source():
    found = identity.program()
    assert {"jax", "jaxlib", "the code of caugym_jax", "jax_enable_x64"} <= set(found)
    assert found == identity.program()
