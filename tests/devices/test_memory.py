"""Free memory, by what the kernel reports."""

import pytest

from caugym_jax.devices.memory import free_memory


def files(root, contents):
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = "sys/fs/cgroup/memory/memory"
CGROUPS = {
    "version 2, which counts the files it caches": (
        {
            "sys/fs/cgroup/memory.max": "1000\n",
            "sys/fs/cgroup/memory.current": "900\n",
            "sys/fs/cgroup/memory.stat": "anon 200\nfile 700\nactive_file 500\ninactive_file 150\n",
        },
        750,
    ),
    "version 1, of the group and those below it": (
        {
            f"{V1}.limit_in_bytes": "1000\n",
            f"{V1}.usage_in_bytes": "900\n",
            f"{V1}.stat": "active_file 5\ninactive_file 6\n"
            "total_active_file 500\ntotal_inactive_file 150\n",
        },
        750,
    ),
    "no statistics": (
        {"sys/fs/cgroup/memory.max": "1000", "sys/fs/cgroup/memory.current": "900"},
        100,
    ),
    "no limit": (
        {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "900\n"},
        None,
    ),
    "the machine has less": (
        {
            "sys/fs/cgroup/memory.max": "90000",
            "sys/fs/cgroup/memory.current": "900",
            "proc/meminfo": "MemTotal:  80 kB\nMemAvailable:      3 kB\n",
        },
        3072,
    ),
    "nothing tells": ({}, None),
}


@pytest.mark.parametrize("case", CGROUPS)
def test_what_the_control_group_leaves_is_free(tmp_path, case):
    contents, expected = CGROUPS[case]
    assert free_memory(files(tmp_path, contents)) == expected
