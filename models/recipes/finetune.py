"""Fine-tuning per task: the dense model by cross-entropy, then each sparse model by cross-entropy and distillation from the dense
model fine-tuned for the same task, as the paper does. One task a GPU; masks stay frozen."""

import math
import time

import numpy as np
import torch

import checkpoint
import parallel
from evaluate import perplexity
from generate import Sampler, greedy_answers
from model import COMPUTE, DEVICE, Llama, tree_map
from prepare import ragged, unragged


class FineTuner:
    def __init__(self, config, dense: dict, sparse: dict[str, dict], arrays: dict, recipe: dict, folder, trainer):
        """sparse: name -> parameters; arrays: what tasks.py prepared; recipe: see the YAML; folder: for the answers;
        trainer: its compiled passes are used again, by each process alone."""
        self.config, self.dense, self.sparse, self.arrays = config, dense, sparse, arrays
        self.recipe, self.folder, self.log, self.trainer = recipe, folder, trainer.log, trainer
        self.teacher = tree_map(lambda t: t.to(COMPUTE), dense)
        trainer.together = False
        self.plain = Llama(config)

    def run(self) -> None:
        for task, spec in self.recipe['tasks'].items():
            if not parallel.claim(self.folder, task):
                continue
            began = time.time()
            streams = {
                name: torch.from_numpy(self.arrays[f'train_{name}'].astype(np.int32)).to(DEVICE) for name in spec['mix']
            }
            self.samplers = {}
            self.report(task, spec | {'answers': {}}, 'dense-before', self.dense)
            tuned = self.train(task, spec, 'dense', self.dense, streams, None)
            teacher = tree_map(lambda t: t.to(COMPUTE), tuned)
            self.report(task, spec, 'dense', tuned)
            for name, params in self.sparse.items():
                tuned = self.train(task, spec, name, params, streams, teacher)
                self.report(task, spec, name, tuned)
                if spec.get('keep') == name:
                    checkpoint.save(self.folder / f'{name}-{task}', self.config, tuned)
            self.log(f'fine-tuned for {task} in {time.time() - began:.1f} s')

    def train(self, task, spec, name, params, streams, teacher):
        settings = self.recipe['train'] | self.recipe['dense' if teacher is None else 'sparse'] | spec
        return self.trainer.run(f'{task} {name}', params, streams, settings, teacher=teacher or self.teacher)

    def report(self, task, spec, name, params):
        loss = math.log(perplexity(self.plain, params, self.arrays[f'held_{task}'], spec.get('window', 1024))['ppl'])
        self.log(f'{task} {name}: held-out loss {loss:.4f}', record={'finetune': task, 'model': name, 'loss': loss})
        for prompts, limit in spec['answers'].items():
            answers = self.answer(prompts, params, unragged(self.arrays, f'prompts_{prompts}'), limit)
            np.savez_compressed(self.folder / f'answers-{prompts}-{name}.npz', **ragged('answers', answers))

    def answer(self, name, params, prompts, limit) -> list[list[int]]:
        """Greedy answers of at most `limit` tokens. Prompts of over 600 tokens lose their start."""
        prompts = [ids[-600:] for ids in prompts]
        longest = max(map(len, prompts))
        if name not in self.samplers:
            self.samplers[name] = Sampler(self.config, params, len(prompts), longest + limit, longest)
        self.samplers[name].use(params)
        return greedy_answers(self.samplers[name], prompts, limit)
