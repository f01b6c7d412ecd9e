"""The cases of benchmarks/pretraining.py, whose runs take hours: each must be a run that can start."""

from __future__ import annotations

from benchmarks.pretraining import CASES, run_config

from foretrain.distributed.world import World
from foretrain.run.dry_run import describe_run


def test_every_case_has_a_folder_of_its_own_and_differs_from_the_base_where_it_says(tmp_path):
    runs = {name: run_config(tmp_path, name, 0, 40) for name in CASES}
    assert len({run.output_dir for run in runs.values()}) == len(CASES)
    base = runs["base"].model_dump()
    assert all(run.model_dump() != base | {"output_dir": run.output_dir} for k, run in runs.items() if k != "base")
    rows = {name: [layout.rows for layout in run.data.generated.layouts] for name, run in runs.items()}  # type: ignore[union-attr]
    assert {name for name, found in rows.items() if found != [1]} == {"with-groups"}
    assert run_config(tmp_path, "base", 1, 40).output_dir != runs["base"].output_dir


def test_patches_of_16_can_start(tmp_path):
    text = "\n".join(describe_run(run_config(tmp_path, "patches-of-16", 0, 40), World()))
    assert "steps: 40 of 1 micro-batches" in text and "refused" not in text


def test_cases_of_other_shares_of_contexts_keep_the_ranges_of_the_recipe(tmp_path):
    def ranges(name: str) -> list[tuple[int, int]]:
        generated = run_config(tmp_path, name, 0, 40).data.generated
        assert generated is not None and generated.contexts is not None
        return [(entry.shortest, entry.longest) for entry in generated.contexts]

    assert ranges("few-short") == ranges("many-short") == ranges("base")
