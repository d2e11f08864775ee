"""Tasks of the lm-evaluation-harness with the bundled questions as their data, so that nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import yaml

SAMPLE = Path(__file__).parents[1] / "src" / "tunesmith" / "samples" / "common_beliefs.jsonl"


def write_harness_tasks(folder: Path) -> Path:
    """``ours_mc1`` and ``ours_mc2``: the harness's own TruthfulQA tasks on other questions; returns the folder."""
    import lm_eval

    theirs = Path(lm_eval.__file__).parent / "tasks" / "truthfulqa"
    folder.mkdir()
    for name, number in (("ours_mc1", 1), ("ours_mc2", 2)):
        task = yaml.safe_load((theirs / "truthfulqa_mc1.yaml").read_text())
        for key in ("tag", "dataset_name", "training_split", "test_split"):
            task.pop(key, None)
        task |= {"task": name, "dataset_path": "json", "doc_to_choice": f"{{{{mc{number}_targets.choices}}}}"}
        task["dataset_kwargs"] = {"data_files": {"validation": str(SAMPLE)}}
        text = yaml.safe_dump(task)
        if number == 2:
            text += "process_results: !function utils.process_results_mc2\n"
            (folder / "utils.py").write_text((theirs / "utils.py").read_text())
        (folder / f"{name}.yaml").write_text(text)
    return folder
