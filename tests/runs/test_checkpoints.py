"""Checkpoints: what is kept, where it is restored, and what happens when the disk is bad."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xxhash

from caugym_jax.devices.mesh import make_mesh, replicated, sharding
from caugym_jax.errors import UserError
from caugym_jax.runs import checkpoints as checkpoints_module
from caugym_jax.runs.checkpoints import Checkpoints, CheckpointSettings, abstract_state, saved_steps
from caugym_jax.runs.folder import numbered
from caugym_jax.types import TrainState
from tests.shared import ROOT
from tests.small_disk import small_disk  # noqa: F401

AXES = {"wide": ("embed", "mlp"), "stack": ("layers", "embed"), "scale": ("norm",)}
SHAPES = {"wide": (16, 8), "stack": (3, 16), "scale": (5,)}


def place(x, where):
    """An array that several processes may hold together."""
    return jax.make_array_from_callback(np.shape(x), where, lambda box: np.asarray(x)[box])


def state_of(step: int, mesh=None, size: int = 1) -> TrainState:
    """A training state whose every number depends on the step."""
    draw = np.random.default_rng(step)
    mesh = mesh or make_mesh(devices=jax.devices()[:1])
    params = {
        name: place(
            draw.normal(size=(*shape[:-1], shape[-1] * size)).astype(np.float32),
            sharding(AXES[name], shape, mesh),
        )
        for name, shape in SHAPES.items()
    }
    moments = {"mu": jax.tree.map(lambda x: x / 2, params), "nu": jax.tree.map(jnp.square, params)}
    alone = replicated(mesh)
    return TrainState(
        place(np.int32(step), alone), params, moments, place(np.int32(step % 2), alone)
    )  # fmt: skip


def assert_same(found: TrainState, expected: TrainState) -> None:
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(expected))


def save(workdir, *steps: int, **options) -> None:
    checkpoints = Checkpoints(workdir, CheckpointSettings(**options))
    for step in steps:
        checkpoints.save(state_of(step), {"next_index": step})
    checkpoints.close()


def test_the_newest_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointSettings(keep=2, best="strict"))
    for step, strict in enumerate([0.1, 0.9, None, 0.2, 0.3, 0.4], 1):
        checkpoints.save(state_of(step), {}, None if strict is None else {"strict": strict})
    checkpoints.wait()
    assert checkpoints.steps == [2, 5, 6] and checkpoints.latest == 6
    checkpoints.close()
    reopened = Checkpoints(tmp_path, CheckpointSettings(keep=1, best=None))
    reopened.save(state_of(7), {})
    reopened.wait()
    assert reopened.steps == [7]
    reopened.close()


def test_the_best_is_known_when_it_is_made_and_afterwards(tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointSettings(keep=1))
    assert checkpoints.best is None and checkpoints.is_best({"strict": 0.0})
    for step, strict in ((2, None), (3, 0.5), (4, 0.2), (5, None)):
        figures = None if strict is None else {"strict": strict, "wellformed": 1.0}
        checkpoints.save(state_of(step), {}, figures)
    assert checkpoints.best == (3, 0.5)
    assert [checkpoints.is_best({"strict": x}) for x in (0.4, 0.5, 0.6)] == [False, False, True]
    assert not checkpoints.is_best(None)
    checkpoints.close()
    (tmp_path / "config.json").write_text('{"method": "sft", "checkpoint.best": "strict"}')
    assert numbered(tmp_path, "best") == 3 and saved_steps(tmp_path) == [3, 5]
    assert numbered(tmp_path, 5) == 5 and numbered(tmp_path, None) is None
    reopened = Checkpoints(tmp_path, CheckpointSettings(keep=1))
    assert reopened.best == (3, 0.5)
    reopened.save(state_of(6), {}, {"strict": 0.5})  # of equal ones the newest is kept
    reopened.close()
    assert numbered(tmp_path, "best") == 6 and saved_steps(tmp_path) == [6]
    (tmp_path / "config.json").write_text('{"method": "sft", "checkpoint.best": null}')
    with pytest.raises(UserError, match="--step=best: .* give the number of one"):
        numbered(tmp_path, "best")


def test_what_is_not_finite_is_not_saved(tmp_path):
    save(tmp_path, 1)
    state = state_of(2)
    for bad in (np.nan, np.inf):
        nu = state.opt_state["nu"] | {"wide": state.opt_state["nu"]["wide"].at[0, 0].set(bad)}
        checkpoints = Checkpoints(tmp_path)
        told = "step 2 is not saved: opt_state.nu.wide is not finite; the last"
        with pytest.raises(UserError, match=told):
            checkpoints.save(state._replace(opt_state=state.opt_state | {"nu": nu}), {})
        checkpoints.close()
    assert saved_steps(tmp_path) == [1]


def test_what_is_not_finite_is_not_opened(tmp_path, monkeypatch):
    """As versions could save it that did not look."""
    state = state_of(2)
    bad = state._replace(params=state.params | {"scale": state.params["scale"] * np.nan})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "not_finite", lambda tree: [])
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(bad, {})
        checkpoints.close()
    reader = Checkpoints(tmp_path, read_only=True)
    wanted = abstract_state(state)
    with pytest.raises(UserError, match="/2 is of no use: params.scale is not finite; remove"):
        reader.restore(wanted)
    with pytest.raises(UserError, match="/2 is of no use: params.scale is not finite; remove"):
        reader.restore_params(wanted.params)
    reader.close()


def test_a_best_that_is_no_figure_is_refused():
    figures = {"strict": 0.5, "loss": 2.0, "rewards/math": 0.1}
    for name in ("eval/loss", "loss", "eval/rewards/math", "main", None):
        CheckpointSettings(best=name).check(figures)
    with pytest.raises(UserError, match="best=accuracy: must be one of loss, rewards/math, stri"):
        CheckpointSettings(best="accuracy").check(figures)
    with pytest.raises(UserError, match="best=strict: must be one of main or none: there is no"):
        CheckpointSettings(best="strict").check(())


def test_less_loss_is_better_and_the_main_figure_is_the_first_there_is():
    assert CheckpointSettings(best="eval/loss").quality({"loss": 2.0}) == (-2.0, 2.0)
    main = CheckpointSettings()
    assert main.quality({"loss": 2.0, "mean_token_accuracy": 0.1}) == (-2.0, 2.0)
    assert main.quality({"reward": 0.3, "truncated": 1.0}) == (0.3, 0.3)
    assert main.quality({"strict": 0.2, "wellformed": 0.1}) == (0.2, 0.2)
    assert main.quality({}) is None and CheckpointSettings(best=None).quality({"loss": 1}) is None


def test_what_is_restored_is_what_was_saved_on_any_mesh(tmp_path):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    checkpoints = Checkpoints(tmp_path)
    saved = state_of(3, mesh)
    checkpoints.save(saved, {"next_index": 12, "name": "a"})
    checkpoints.close()
    for target in (
        make_mesh(data=1, fsdp=4, tensor=2),
        make_mesh(data=8),
        make_mesh(devices=jax.devices()[:1]),
    ):
        wanted = abstract_state(state_of(0, target))
        checkpoints = Checkpoints(tmp_path)
        found, position = checkpoints.restore(wanted)
        checkpoints.close()
        assert_same(found, saved)
        assert position == {"next_index": 12, "name": "a"}
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert x.sharding == y.sharding and x.dtype == y.dtype


def test_parameters_alone_of_a_chosen_step(tmp_path):
    save(tmp_path, 1, 2)
    mesh = make_mesh(data=1, fsdp=8)
    wanted = abstract_state(state_of(0, mesh)).params
    for step, expected in ((None, 2), (1, 1), (2, 2)):
        checkpoints = Checkpoints(tmp_path)
        found = checkpoints.restore_params(wanted, step)
        checkpoints.close()
        assert_same(found, state_of(expected).params)
        assert found["wide"].sharding == wanted["wide"].sharding


def test_a_missing_step_is_named(tmp_path):
    wanted = abstract_state(state_of(0))
    empty = Checkpoints(tmp_path / "empty")
    assert empty.latest is None and empty.steps == []
    with pytest.raises(UserError, match="holds no checkpoint: train first"):
        empty.restore(wanted)
    save(tmp_path, 1, 2)
    checkpoints = Checkpoints(tmp_path)
    for read in (checkpoints.restore, checkpoints.restore_params):
        with pytest.raises(UserError, match=r"no checkpoint of step 7: it has 1, 2"):
            read(wanted, 7)
    checkpoints.close()


def test_saving_is_not_disturbed_by_the_next_updates(tmp_path):
    """The update donates the very buffers that are being written in the background."""
    update = jax.jit(lambda s: jax.tree.map(lambda x: x * 3 + 1, s), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, CheckpointSettings(keep=9))
    state = state_of(1, size=20_000)
    expected = []
    for step in range(1, 4):
        state = state._replace(step=jnp.int32(step))
        expected.append(jax.tree.map(np.array, jax.device_get(state)))
        checkpoints.save(state, {})
        for _ in range(3):
            state = update(state)
    checkpoints.wait()
    wanted = abstract_state(state_of(0, size=20_000))
    for step, saved in enumerate(expected, 1):
        assert_same(checkpoints.restore(wanted, step)[0], saved)
    checkpoints.close()


def _cut_metadata(folder):
    (folder / "state" / "_METADATA").unlink()


def _cut_arrays(folder):
    shutil.rmtree(folder / "state" / "d")
    shutil.rmtree(folder / "state" / "ocdbt.process_0", ignore_errors=True)


def _truncate(folder):
    for path in folder.glob("state/**/d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _scramble(folder):
    (folder / "state" / "_METADATA").write_text("{not json")


def _cut_position(folder):
    shutil.rmtree(folder / "loader")


def _flip(folder):
    path = max(folder.glob("state/**/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _spoil_digests(folder):
    (folder / "digests.json").write_text("{not json")


DAMAGE = [
    _cut_metadata, _cut_arrays, _truncate, _scramble, _cut_position, _flip, _spoil_digests
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_serves(tmp_path, damage, capsys):
    save(tmp_path, 1, 2)
    folder = tmp_path / "checkpoints"
    damage(folder / "2")
    files = sorted((folder / "2").rglob("*"))
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.latest == reader.latest == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"checkpoint {folder / '2'} is damaged (")
    assert said.endswith("): using step 1")
    with pytest.raises(UserError, match=r"checkpoint .*/2 is damaged \(.*\): it has 1, 2"):
        reader.restore_params(abstract_state(state_of(0)).params, 2)
    reader.close()
    assert sorted((folder / "2").rglob("*")) == files

    checkpoints = Checkpoints(tmp_path)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("), set aside as 2.damaged: using step 1")
    assert checkpoints.latest == 1
    found, position = checkpoints.restore(abstract_state(state_of(0)))
    assert_same(found, state_of(1))
    assert position == {"next_index": 1}
    checkpoints.save(state_of(2), {"next_index": 2})  # the run makes that step once more
    checkpoints.wait()
    assert checkpoints.latest == 2
    assert_same(checkpoints.restore(abstract_state(state_of(0)))[0], state_of(2))
    checkpoints.close()
    assert not capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "2.damaged"]
    damage(folder / "2")
    Checkpoints(tmp_path).close()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2.damaged", "2.damaged-1"]


def in_processes(count: int, *arguments: str) -> list[tuple[str, str]]:
    """What each of several processes that work together printed, and said on stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.checkpoint_process", *arguments]
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    env |= {"JAX_PLATFORMS": "cpu", "CAUGYM_COORDINATOR": address, "CAUGYM_PROCESSES": str(count)}
    started = [
        subprocess.Popen(
            command, cwd=ROOT, env=env | {"CAUGYM_PROCESS_ID": str(i)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for i in range(count)
    ]  # fmt: skip
    ended = [process.communicate(timeout=300) for process in started]
    assert all(process.returncode == 0 for process in started), ended
    return ended


def test_two_processes_save_one_restores_and_both_leave_a_damaged_one(tmp_path):
    in_processes(2, "save", str(tmp_path))
    folder = tmp_path / "checkpoints"
    parts = {p.name for p in (folder / "2" / "state").glob("ocdbt.process_*")}
    assert parts == {"ocdbt.process_0", "ocdbt.process_1"}
    reader = Checkpoints(tmp_path, read_only=True)
    for mesh in (make_mesh(data=1, fsdp=8), make_mesh(devices=jax.devices()[:1])):
        assert_same(reader.restore(abstract_state(state_of(0, mesh)))[0], state_of(2))
    reader.close()
    (folder / "2" / "state" / "_METADATA").write_text("{}")
    (one, told), (other, silent) = in_processes(2, "restore", str(tmp_path))
    assert one == other == "restored step 1, position 1\n"
    assert told.count("is damaged (state/_METADATA has 2 bytes instead of ") == 1
    assert "set aside as 2.damaged: using step 1" in told and "damaged" not in silent
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2.damaged"]


def test_where_no_checkpoint_is_whole_nothing_is_lost_and_it_is_said(tmp_path):
    save(tmp_path, 1, 2)
    _flip(tmp_path / "checkpoints" / "1")
    _cut_position(tmp_path / "checkpoints" / "2")
    for read_only in (False, True):
        with pytest.raises(
            UserError, match=r"no checkpoint .* is whole \(2: loader/\S+ is gone; 1: "
        ):
            Checkpoints(tmp_path, read_only=read_only).restore(abstract_state(state_of(0)))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]


def test_a_checkpoint_without_digests_is_used_and_it_is_said(tmp_path, capsys):
    save(tmp_path, 1)
    (tmp_path / "checkpoints" / "1" / "digests.json").unlink()
    checkpoints = Checkpoints(tmp_path)
    assert_same(checkpoints.restore(abstract_state(state_of(0)))[0], state_of(1))
    checkpoints.close()
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("has no digests.json: it is used without a check of its files")


def test_every_file_that_is_read_has_a_digest_before_the_step_has_a_name(tmp_path, monkeypatch):
    from orbax.checkpoint._src.path import atomicity

    seen = []
    real = atomicity.AtomicRenameTemporaryPath.finalize

    async def finalize(self):
        seen.append((self.get_final().name, (self.get() / "digests.json").exists()))
        await real(self)

    monkeypatch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", finalize)
    save(tmp_path, 1)
    assert ("1", True) in seen
    folder = tmp_path / "checkpoints" / "1"
    listed = json.loads((folder / "digests.json").read_text())["files"]
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files - set(listed) == {"digests.json", "_CHECKPOINT_METADATA", "commit_success.txt"}
    path = folder / "state" / "_METADATA"
    assert listed["state/_METADATA"] == {
        "bytes": path.stat().st_size, "xxh3_128": xxhash.xxh3_128_hexdigest(path.read_bytes())
    }  # fmt: skip
    # What is left out is not needed: without it the same is restored.
    for name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
        (folder / name).unlink()
    checkpoints = Checkpoints(tmp_path)
    assert_same(checkpoints.restore(abstract_state(state_of(0)))[0], state_of(1))
    checkpoints.close()


def test_checkpoints_may_lie_elsewhere(tmp_path):
    workdir, other = tmp_path / "run", str(tmp_path / "bucket" / "run")
    save(workdir, 1, 2, folder=other)
    assert sorted(p.name for p in (tmp_path / "bucket" / "run").iterdir()) == ["1", "2"]
    assert saved_steps(workdir) == [1, 2] and saved_steps(tmp_path) == []
    reader = Checkpoints(workdir, read_only=True)  # knows where without being told
    assert_same(reader.restore_params(abstract_state(state_of(0)).params), state_of(2).params)
    reader.close()
    with pytest.raises(UserError, match="set config.checkpoint.folder to that"):
        Checkpoints(workdir, CheckpointSettings(folder=str(tmp_path / "third")))
    save(tmp_path / "second", 1)
    with pytest.raises(UserError, match="set config.checkpoint.folder to that"):
        Checkpoints(tmp_path / "second", CheckpointSettings(folder=other))


def test_a_bucket_without_its_package_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs://b/run cannot be reached: .*pip install gcsfs"):
        Checkpoints(tmp_path, CheckpointSettings(folder="gs://b/run"))


def test_layers_of_a_stack_are_read_one_by_one(tmp_path):
    stack = np.arange(5 * 8 * 6, dtype=np.float32).reshape(5, 8, 6)
    for mesh in (make_mesh(data=1, fsdp=8), make_mesh(devices=jax.devices()[:1])):
        places = {"layers": {"w": sharding(("layers", "embed", "mlp"), stack.shape, mesh)}}
        params = jax.device_put({"layers": {"w": stack}}, places)
        alone = jax.device_put(jnp.int32(1), replicated(mesh))
        folder = tmp_path / str(mesh.devices.size)
        checkpoints = Checkpoints(folder)
        checkpoints.save(TrainState(alone, params, {}, alone), {})
        checkpoints.wait()
        abstract = {"params": {"layers": {"w": jax.ShapeDtypeStruct(stack.shape, np.float32)}}}
        stored = checkpoints.stored(abstract)["params"]["layers"]["w"]
        for layer in range(5):
            np.testing.assert_array_equal(stored[layer], stack[layer])
        np.testing.assert_array_equal(np.asarray(stored), stack)
        found = checkpoints.restore_params(
            abstract_state(TrainState(alone, params, {}, alone)).params
        )
        np.testing.assert_array_equal(found["layers"]["w"], stack)
        with pytest.raises(UserError, match="holds no params.other"):
            checkpoints.stored({"params": {"other": abstract["params"]["layers"]["w"]}})
        checkpoints.close()


@pytest.mark.parametrize("gone", ["manifest.ocdbt", "d", "."])
def test_what_is_deleted_while_it_is_read_is_an_error_and_not_zeros(tmp_path, gone):
    save(tmp_path, 1)
    with Checkpoints(tmp_path) as checkpoints:
        abstract = {"params": abstract_state(state_of(1)).params}
        stored = checkpoints.stored(abstract)["params"]["wide"]
        path = tmp_path / "checkpoints" / "1" / "state" / gone
        path.unlink() if path.is_file() else shutil.rmtree(path)
        with pytest.raises(UserError, match="array is gone or cannot be read"):
            np.asarray(stored)


def test_another_model_s_checkpoint_is_refused(tmp_path):
    save(tmp_path, 1)
    checkpoints = Checkpoints(tmp_path)
    other = abstract_state(state_of(0, size=2))
    with pytest.raises(UserError, match="cannot be read"):
        checkpoints.restore(other)
    with pytest.raises(UserError, match="cannot be read"):
        checkpoints.restore_params(other.params)
    checkpoints.close()


def test_a_save_cut_short_does_not_count(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp")
    (folder / "2.orbax-checkpoint-tmp" / "commit_success.txt").unlink(missing_ok=True)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps == [1]
    checkpoints.save(state_of(2), {})
    checkpoints.close()
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2"]


def test_a_reader_leaves_alone_what_a_live_run_is_writing(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp")
    files = sorted(folder.rglob("*"))
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.steps == [1] and reader.latest == 1
    assert_same(reader.restore_params(abstract_state(state_of(0)).params), state_of(1).params)
    reader.close()
    assert sorted(folder.rglob("*")) == files
    Checkpoints(tmp_path / "absent", read_only=True).close()
    assert not (tmp_path / "absent").exists()


def test_a_removal_cut_short_does_no_harm(tmp_path):
    save(tmp_path, 1, 2, keep=2)
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "state")
    checkpoints = Checkpoints(tmp_path, CheckpointSettings(keep=2))
    assert checkpoints.latest == 2
    assert_same(checkpoints.restore(abstract_state(state_of(0)))[0], state_of(2))
    checkpoints.save(state_of(3), {})
    checkpoints.wait()
    assert checkpoints.steps == [2, 3]
    checkpoints.close()


def test_a_full_disk_leaves_earlier_checkpoints(small_disk):  # noqa: F811
    disk = small_disk(5)
    checkpoints = Checkpoints(disk, CheckpointSettings(keep=9))
    wanted = abstract_state(state_of(0, size=500))
    done = 0
    with pytest.raises(UserError, match="No space left on device") as error:
        for step in range(1, 20):  # each takes 1.2 MB
            checkpoints.save(state_of(step, size=500), {})
            checkpoints.wait()
            done = step
    assert 1 <= done < 5 and "earlier checkpoints are intact" in str(error.value)
    assert "\n" not in str(error.value)
    again = Checkpoints(disk, CheckpointSettings(keep=9))
    assert again.latest == done
    assert_same(again.restore(wanted)[0], state_of(done, size=500))
    shutil.rmtree(disk / "checkpoints" / "1")
    again.close()
    once_more = Checkpoints(disk, CheckpointSettings(keep=9))
    once_more.save(state_of(done + 1, size=500), {})
    once_more.close()


def test_an_error_of_the_background_writer_is_told(tmp_path, monkeypatch):
    from orbax.checkpoint._src.path import atomicity

    save(tmp_path, 1)

    async def fail(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", fail)
    with pytest.raises(UserError, match=r"No space left.*earlier checkpoints are intact"):
        checkpoints.save(state_of(2), {})
        checkpoints.wait()
    monkeypatch.undo()
    assert Checkpoints(tmp_path).steps == [1]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write checkpoints"):
        Checkpoints(tmp_path / "file")


def test_an_error_does_not_lose_the_save_under_way(tmp_path, monkeypatch, capfd):
    """It is whole when the run has ended; where it fails, that is told beside the error."""
    from caugym_jax.runs import digests

    write = digests.write_digests

    def slowly(folder):
        time.sleep(0.5)
        write(folder)

    monkeypatch.setattr(digests, "write_digests", slowly)
    with pytest.raises(UserError, match="the reward"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(1), {})
        raise UserError("the reward function raised")
    assert Checkpoints(tmp_path).steps == [1]

    def fail(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(digests, "write_digests", fail)
    with pytest.raises(UserError, match="the reward"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(2), {})
        raise UserError("the reward function raised")
    assert "No space left on device" in capfd.readouterr().err
    monkeypatch.undo()
    assert Checkpoints(tmp_path).steps == [1]


def test_stored_arrays_are_found_through_a_parent_folder(tmp_path):
    save(tmp_path / "run", 3)
    (tmp_path / "beside").mkdir()
    params = state_of(3).params
    abstract = {"params": {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in params.items()}}
    run = Checkpoints(tmp_path / "beside" / ".." / "run", CheckpointSettings(), read_only=True)
    found = run.stored(abstract)["params"]
    np.testing.assert_array_equal(found["stack"][1], params["stack"][1])
