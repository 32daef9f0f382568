"""The whole recipe, stage after stage: python run.py RECIPE.yaml --work DIR

Each finished stage leaves a file in DIR and is skipped the next time, training resumes from its last checkpoint, and
DIR/results.jsonl collects every number. DIR/control.json, if present, overrides numbers of a coming stage, e.g.
{"train70": {"tokens": 2e8}}. Inputs in DIR: model.gguf, eval.npz, seeds.npz, tokens.npz (may arrive while it runs).
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import yaml

import checkpoint
from evaluate import Evaluator
from generate import self_text
from model import COMPUTE, DEVICE, Config, Llama, load_gguf, sparsity, tree_map
from prepare import unragged
from sparsegpt import allocate, sparsegpt
from train import Trainer


class Run:
    def __init__(self, recipe: dict, work: Path, layers: int | None):
        self.recipe, self.work, self.began = recipe, work, time.time()
        self.file = lambda name: work / name
        self._wait('model.gguf')
        self.config, self.dense = load_gguf(self.file('model.gguf'), layers)
        self.teacher = tree_map(lambda t: t.to(COMPUTE), self.dense)
        self._wait('eval.npz')
        self.arrays = dict(np.load(self.file('eval.npz')))
        self.evaluator = Evaluator(self.config, self.teacher, self.arrays, short=recipe.get('short', False))
        self.trainer = Trainer(self.config, self.teacher, self.log, compiled=DEVICE == 'cuda')
        self.plain = Llama(self.config)

    def log(self, text: str, record: dict | None = None):
        print(f'[{time.time() - self.began:7.1f}] {text}', flush=True)
        if record is not None:
            with open(self.file('results.jsonl'), 'a') as out:
                out.write(json.dumps({'at': round(time.time() - self.began, 1), **record}) + '\n')

    def control(self, stage: str) -> dict:
        path = self.file('control.json')
        return json.loads(path.read_text()).get(stage, {}) if path.exists() else {}

    def _wait(self, name: str):
        while not self.file(name).exists():
            time.sleep(0.5)

    # ---- stages

    def evaluate(self, name: str, params: dict, grid: str | None = None):
        label = name + (f'-{grid}' if grid else '')
        if self.file(f'{label}.json').exists():
            return
        began = time.time()
        result = {'model': name, 'weights': grid or 'f16', 'sparsity': sparsity(params)}
        result |= self.evaluator.full(checkpoint.as_shipped(params), grid)
        self.file(f'{label}.json').write_text(json.dumps(result))
        brief = {task: round(next(reversed(v.values()))['value'], 2) for task, v in result['tasks'].items()}
        self.log(
            f'EVAL {label}: wikitext2 {result["wikitext2"]:.3f} kl {result["kl"]["mean_outside"]:.4f} {brief} '
            f'({time.time() - began:.1f} s)',
            record={'evaluation': label, **result},
        )

    def generate(self):
        if not self.file('self.npz').exists():
            arrays = dict(np.load(self._waited('seeds.npz')))
            seeds = {name: unragged(arrays, name) for name in ('chat', 'text')}
            seeds |= {k: arrays[k].tolist() for k in ('user_header', 'after_user', 'after_assistant')}
            spec = self.recipe['generate'] | self.control('generate')
            made = self_text(self.config, self.dense, seeds, spec, self.log)
            np.savez(self.file('self.partial.npz'), **made)
            self.file('self.partial.npz').rename(self.file('self.npz'))

    def _waited(self, name):
        self._wait(name)
        return self.file(name)

    def read_streams(self):
        arrays = dict(np.load(self._waited('tokens.npz'))) | dict(np.load(self.file('self.npz')))
        arrays['web'] = self.arrays['train_web']
        self.streams = {k: torch.from_numpy(v.astype(np.int32)).to(DEVICE) for k, v in arrays.items()}
        self.log('tokens', record={'tokens': {k: len(v) for k, v in self.streams.items()}})
        spec = self.recipe['prune']
        generator = torch.Generator().manual_seed(spec['seed'])
        rows = []
        for name, count in spec['calibration'].items():
            stream = self.streams[name]
            starts = torch.randint(max(1, len(stream) - spec['length']), (count,), generator=generator).to(DEVICE)
            rows.append(stream[starts[:, None] + torch.arange(spec['length'], device=DEVICE)[None]].long())
        self.calibration = torch.cat(rows)

    def prune(self, name: str, params: dict, target: float, allocation: dict | None = None) -> dict:
        path = self.file(f'{name}.pt')
        if path.exists():
            return torch.load(path, map_location=DEVICE)
        began = time.time()
        allocation = allocation or {}
        shares = allocate(self.config, target, allocation.get('kinds', {}), allocation.get('layers', {}))
        result = sparsegpt(self.plain, params, self.calibration, shares)
        torch.save(result, path)
        quick = self.evaluator.kl(result, domains=('c4', 'wiki'), limit=32)
        self.log(
            f'PRUNE {name} to {sparsity(result):.4f}, kl {quick["mean_outside"]:.3f}, {time.time() - began:.1f} s',
            record={'prune': name, 'sparsity': sparsity(result), 'allocation': allocation, 'quick': quick},
        )
        return result

    def score(self, params: dict) -> tuple[float, dict]:
        """KL and excess log-perplexity on held-out text, averaged: lower is better."""
        quick = self.evaluator.kl(params, domains=('c4', 'wiki', 'chat'), limit=64)
        if not hasattr(self, 'dense_quick'):
            self.dense_quick = self.evaluator.kl(self.dense, domains=('c4', 'wiki', 'chat'), limit=64)
        domains = [d for d in quick if d != 'mean_outside']
        excess = [np.log(quick[d]['ppl'] / self.dense_quick[d]['ppl']) for d in domains]
        return float(np.mean([quick[d]['kl'] for d in domains]) + np.mean(excess)) / 2, quick

    def sweep(self):
        """Coordinate descent at equal tokens: each candidate changes the best setting so far; the better one stays."""
        path = self.file('sweep.json')
        if path.exists():
            return json.loads(path.read_text())
        spec = self.recipe['sweep']
        base = {'train': self.recipe['train'] | spec['train'], 'allocation': {}}
        best, table = None, []
        for candidate in spec['candidates']:
            if self.control('sweep').get('stop'):
                break
            setting = {
                'train': base['train'] | candidate.get('train', {}),
                'allocation': candidate.get('allocation', base['allocation']),
            }
            name = 'sgpt50' if not setting['allocation'] else f'sgpt50-{candidate["name"]}'
            start = self.prune(name, self.dense, 0.5, setting['allocation'])
            trained = self.trainer.run(f'sweep-{candidate["name"]}', start, self.streams, setting['train'])
            score, quick = self.score(trained)
            adopted = best is None or score < best * (1 - spec['margin'])
            table.append({'name': candidate['name'], 'score': score, 'adopted': adopted, 'quick': quick})
            against = 0.0 if best is None else 100 * (score / best - 1)
            self.log(
                f'SWEEP {candidate["name"]}: {score:.4f} ({against:+.1f} % against the best) '
                f'kl {({d: round(v["kl"], 3) for d, v in quick.items() if d != "mean_outside"})} '
                f'ppl {({d: round(v["ppl"], 2) for d, v in quick.items() if d != "mean_outside"})}'
                + (' adopted' if adopted else ''),
                record={'sweep': table[-1]},
            )
            if adopted:
                best, base = score, setting
            del trained
        adopted = {'train': base['train'], 'allocation': base['allocation'], 'table': table}
        path.write_text(json.dumps(adopted))
        return adopted

    def train(self, name: str, params: dict, chosen: dict) -> dict:
        path = self.file(f'{name}.pt')
        if path.exists():
            return torch.load(path, map_location=DEVICE)
        spec = self.recipe['train'] | chosen['train'] | self.recipe[name] | self.control(name)
        if spec.get('until'):  # a lease that ends: as many tokens as fit before that second of this process
            spec['tokens'] = int((spec['until'] - (time.time() - self.began)) * spec['rate'])
        result = self.trainer.run(name, params, self.streams, spec, str(self.file(f'{name}.resume')))
        torch.save(result, path)
        checkpoint.save(self.file(name), self.config, result)
        self.log(f'EXPORTED {name}')
        return result

    def main(self):
        r = self.recipe
        self.evaluate('dense', self.dense)
        self.generate()
        self.read_streams()
        chosen = {'train': {}, 'allocation': r['prune'].get('allocation', {})}
        chosen = self.sweep() if r.get('sweep') else chosen
        start50 = self.prune('start50', self.dense, 0.5, chosen['allocation'])
        train50 = self.train('train50', start50, chosen)
        self.evaluate('train50', train50)
        start = train50
        if r.get('train60'):
            start = self.train('train60', self.prune('start60', start, 0.6, chosen['allocation']), chosen)
        start70 = self.prune('start70', start, 0.7, chosen['allocation'])
        train70 = self.train('train70', start70, chosen)
        for grid in (None, 'i8', 'i4'):
            self.evaluate('train70', train70, grid)
        for grid in ('i8', 'i4'):
            self.evaluate('train50', train50, grid)
        one50, one70 = (self.prune(f'sgpt{n}', self.dense, n / 100) for n in (50, 70))
        for name, params in (('sgpt50', one50), ('sgpt70', one70)):
            self.evaluate(name, params)
        for grid in ('i8', 'i4'):
            for name, params in (('dense', self.dense), ('sgpt50', one50), ('sgpt70', one70)):
                self.evaluate(name, params, grid)
        self.log('END')


def warm(recipe: dict):
    """Compiles and times training on random weights: fills the compiler's cache while data still arrives."""
    began = time.time()
    config = Config(576, 1536, 30, 9, 3, 49152, 1e-5, 100000.0)
    randn = lambda *shape: 0.03 * torch.randn(*shape, device=DEVICE)  # noqa: E731
    layer = lambda: {  # noqa: E731
        'attn_norm': torch.ones(576, device=DEVICE), 'qkv': randn(960, 576), 'out': randn(576, 576),
        'mlp_norm': torch.ones(576, device=DEVICE), 'gate_up': randn(3072, 576), 'down': randn(576, 1536),
    }  # fmt: skip
    params = {'embed': randn(49152, 576), 'norm': torch.ones(576, device=DEVICE)}
    params['layers'] = [layer() for _ in range(config.layers)]
    teacher = tree_map(lambda t: t.to(COMPUTE), params)
    say = lambda text, record=None: print(f'[{time.time() - began:6.1f}] warm: {text}', flush=True)  # noqa: E731
    trainer = Trainer(config, teacher, say, compiled=DEVICE == 'cuda')
    streams = {'x': torch.randint(0, 49152, (4_000_000,), dtype=torch.int32, device=DEVICE)}
    batch = recipe['train']['batch']
    spec = recipe['train'] | {'mix': {'x': 1.0}, 'qat_from': 0.5, 'tokens': 8 * batch * 1024, 'log_every': 2}
    trainer.run(f'batch of {batch} x 1024', params, streams, spec)
    memory = torch.cuda.max_memory_allocated() / 2**30 if DEVICE == 'cuda' else 0
    say(f'training peaks at {memory:.0f} GiB')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('recipe', type=Path)
    parser.add_argument('--work', type=Path, required=True)
    parser.add_argument('--layers', type=int, help='keep only the first layers: a dry run')
    parser.add_argument('--warm', action='store_true', help='only compile and time')
    args = parser.parse_args()
    torch.set_float32_matmul_precision('high')
    document = yaml.safe_load(args.recipe.read_text())
    args.work.mkdir(parents=True, exist_ok=True)
    if args.warm:
        warm(document)
    else:
        Run(document, args.work, args.layers).main()
