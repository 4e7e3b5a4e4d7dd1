"""Every recorded number of another library is compared with in some test, or left out by name."""

import ast
import re

from tests.objectives.bigram_rows import goldens
from tests.shared import ROOT

RECORDED = "test_losses_and_gradients_equal_recorded_numbers"
COVERED = {  # what a key matches as a whole: the test that uses it
    r"dpo/(sigmoid|sigmoid_norm|ipo|hinge|robust|sft)": f"objectives/test_dpo.py::{RECORDED}",
    r"dpo/metrics": "objectives/test_dpo.py::test_recorded_rewards",
    r"kto/.*": f"objectives/test_kto.py::{RECORDED}",
    r"grpo/(grpo|bnpo|dr_grpo|dapo|cispo)/.*": f"objectives/test_policy.py::{RECORDED}",
    r"sft/nll_mean": "objectives/test_sft.py::test_loss_and_gradient_equal_recorded_numbers",
    r"sft/bfd_pack": "objectives/test_sft.py::test_packing_equals_the_recorded_rows",
    r"verl/(gae_adv|returns)": "objectives/test_gae.py::test_advantages_equal_recorded_numbers",
    r"verl/loss": "objectives/test_policy.py::test_dual_clip_equals_recorded_numbers",
    r"verl/value_loss": "objectives/test_value.py::test_loss_equals_recorded_numbers",
    r"verl/kl|openrlhf/k3": "objectives/test_policy.py::test_kl_estimates_equal_recorded_numbers",
    r"verl/grpo_adv": "objectives/test_advantages.py::test_recorded_numbers",
    r"openrlhf/policy.*": "objectives/test_policy.py::test_dual_clip_equals_recorded_numbers",
    r"openrlhf/dpo.*": f"objectives/test_dpo.py::{RECORDED}",
}
LEFT_OUT = r"dpo/(apo_zero|apo_down|nca_pair|bco_pair|sppo_hard)|grpo/(sapo|luspo)/.*"


def test_every_recorded_number_is_used():
    groups = {k: v for k, v in goldens().items() if isinstance(v, dict) and k != "inputs"}
    keys = {f"{group}/{key}" for group, entries in groups.items() for key in entries}
    used = {k for k in keys if any(re.fullmatch(pattern, k) for pattern in COVERED)}
    left = {k for k in keys if re.fullmatch(LEFT_OUT, k)}
    assert keys == used | left and not used & left
    assert all(any(re.fullmatch(pattern, k) for k in keys) for pattern in COVERED)


def test_the_tests_named_exist():
    for test in COVERED.values():
        path, name = test.split("::")
        tree = ast.parse((ROOT / "tests" / path).read_text())
        assert name in {f.name for f in tree.body if isinstance(f, ast.FunctionDef)}, test
