"""A run's folder: what is left of an earlier run that saved nothing."""

from caugym_jax.runs import claim_workdir

OF_A_RUN = ("before.json", "after.json", "summary.json")


def test_a_run_begun_anew_forgets_the_answers_and_the_summary_of_the_old_one(tmp_path):
    """Its checkpoints were removed by hand; its summary must not pass for the new run's."""
    config = {"method": "sft", "seed": 1, "steps": 5}
    claim_workdir(tmp_path, config, ("steps",))
    for name in OF_A_RUN:
        (tmp_path / name).write_text("{}")
    claim_workdir(tmp_path, config | {"steps": 4}, ("steps",))
    assert all((tmp_path / name).exists() for name in OF_A_RUN)
    claim_workdir(tmp_path, config | {"seed": 2}, ("steps",))
    assert not any((tmp_path / name).exists() for name in OF_A_RUN)
