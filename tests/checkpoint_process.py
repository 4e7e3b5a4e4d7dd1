"""One of several processes that save or restore a checkpoint (see test_checkpoints.py).

python -m tests.checkpoint_process save|restore WORKDIR     (CAUGYM_COORDINATOR etc. are set)
"""

import sys

import jax
import numpy as np

from caugym_jax.devices import processes
from caugym_jax.devices.mesh import make_mesh
from caugym_jax.runs.checkpoints import Checkpoints, abstract_state
from tests.runs.test_checkpoints import state_of


def main(what: str, workdir: str) -> None:
    mesh = make_mesh(data=1, fsdp=-1)
    checkpoints = Checkpoints(workdir)
    if what == "save":
        for step in (1, 2):
            checkpoints.save(state_of(step, mesh), {"next_index": step})
    else:
        found, position = checkpoints.restore(abstract_state(state_of(0, mesh)))
        expected = state_of(int(found.step), mesh)
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert x.sharding == y.sharding
            for mine, theirs in zip(x.addressable_shards, y.addressable_shards, strict=True):
                np.testing.assert_array_equal(mine.data, theirs.data)
        print(f"restored step {int(found.step)}, position {position['next_index']}")
    checkpoints.close()


if __name__ == "__main__":
    with processes.connected():
        main(*sys.argv[1:])
