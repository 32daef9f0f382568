"""Scores tasks with lm-evaluation-harness over an OpenAI-compatible server, from local documents.

  python lm_eval_scores.py URL TOKENIZER DATA ITEMS FEWSHOT TASK...

The harness's own task definitions are used; only their dataset is replaced by DATA/TASK.jsonl (and DATA/TASK_train.jsonl for
few-shot examples), as no hub can be reached. Prints one JSON object: for each task its figures and the items' log-likelihoods,
contexts and continuations.
"""

import json
import os
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import yaml
from lm_eval import evaluator, tasks
from lm_eval.models.openai_completions import LocalCompletionsAPI

FOLDER = {
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "mmlu": "mmlu/default",
    "boolq": "super_glue/boolq",
    "lambada": "lambada",
}
FILE = {"winogrande": "default.yaml", "boolq": "default.yaml", "lambada": "lambada_openai.yaml"}


def definition(name: str, data: str, folder: str) -> str:
    """A task file that includes the harness's and reads our documents."""
    home = os.path.join(os.path.dirname(tasks.__file__), FOLDER.get(name, name))
    train = os.path.join(data, f"{name}_train.jsonl")
    split = {"validation": os.path.join(data, f"{name}.jsonl")}
    if os.path.exists(train):
        split["train"] = train
    with open(os.path.join(folder, f"{name}.yaml"), "w", encoding="utf-8") as out:
        yaml.safe_dump(
            {
                "include": os.path.join(home, FILE.get(name, f"{name}.yaml")),
                "task": f"local_{name}",
                "tag": None,
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": split},
                "training_split": "train" if "train" in split else None,
                "validation_split": "validation",
                "test_split": None,
            },
            out,
        )
    return f"local_{name}"


def main() -> None:
    url, tokenizer, data, items, fewshot, *names = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        local = [definition(name, data, folder) for name in names]
        model = LocalCompletionsAPI(
            base_url=f"{url}/v1/completions",
            model="default",
            tokenizer_backend="huggingface",
            tokenizer=tokenizer,
            num_concurrent=16,
            batch_size=1,
            max_length=2048,
            max_retries=1,
        )
        found = evaluator.simple_evaluate(
            model=model,
            tasks=local,
            num_fewshot=int(fewshot),
            limit=int(items),
            task_manager=tasks.TaskManager(include_path=folder, include_defaults=False),
            bootstrap_iters=0,
            log_samples=True,
            cache_requests=False,
        )
    report = {}
    for name, task in zip(names, local):
        samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
        report[name] = {
            "results": {k: v for k, v in found["results"][task].items() if isinstance(v, float)},
            "items": [
                {
                    "ll": [float(response[0][0]) for response in sample["resps"]],
                    "arguments": [list(a) if isinstance(a, tuple) else a for a in sample["arguments"]]
                    if not isinstance(sample["arguments"], dict)
                    else [list(a.values()) for a in sample["arguments"].values()],
                    **{k: sample[k] for k in ("acc", "acc_norm") if k in sample},
                }
                for sample in samples
            ],
        }
    json.dump(report, sys.stdout)


main()
