"""Answers files of requests in OpenAI's batch format; the answers lie in the job's output."""

import os
import subprocess
from pathlib import Path

OPTIONS = ["--model", "support=$AZUREML_MODEL_DIR"]


def init():
    """Nothing is kept between files: the command loads the model."""


def run(mini_batch):
    """Answer each file; what is returned says which were."""
    answered = []
    for source in mini_batch:
        target = Path(os.environ["AZUREML_BI_OUTPUT_PATH"]) / f"{Path(source).stem}.answers.jsonl"
        options = [os.path.expandvars(option) for option in OPTIONS]
        subprocess.run(["tunesmith", "batch", str(source), str(target), *options], check=True)
        answered.append(str(target))
    return answered
