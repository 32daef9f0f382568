"""The whole recipe, stage after stage: python run.py RECIPE.yaml --work DIR, or torchrun --nproc-per-node N run.py …

Each finished stage leaves a folder in DIR and is skipped the next time, training resumes from its last checkpoint (if the recipe
sets checkpoint_seconds), and DIR/results.jsonl collects every number. DIR/control.json, if present, overrides numbers of a coming
stage, e.g. {"train70": {"tokens": 2e8}}, or {"train_until": unix time} lets the stages share the time until then, and may be
moved while they run. Inputs in DIR:
model.gguf, eval.npz, seeds.npz, tokens.npz, finetune.npz (may arrive while it runs).
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import yaml

import checkpoint
import parallel
from evaluate import Evaluator
from finetune import FineTuner
from generate import first_questions, own_chats, self_text
from mixture import remember
from model import COMPUTE, DEVICE, Config, Llama, load_gguf, sparsity, tree_map
from prepare import unragged
from sparsegpt import allocate, sparsegpt
from train import Trainer

class Run:
    def __init__(self, recipe: dict, work: Path, layers: int | None, only: str | None = None):
        if only:
            recipe['stages'] = {only: recipe['stages'][only]}
            recipe['evaluate'] = {only: recipe['evaluate'][only]}
        self.recipe, self.work, self.began = recipe, work, time.time()
        self.file = lambda name: work / name
        self._wait('model.gguf')
        self.config, self.dense = load_gguf(self.file('model.gguf'), layers)
        self.teacher = tree_map(lambda t: t.to(COMPUTE), self.dense)
        self.plain = Llama(self.config)
        self.trainer = Trainer(self.config, self.teacher, self.log, compiled=DEVICE == 'cuda')

    def log(self, text: str, record: dict | None = None):
        print(f'[{time.time() - self.began:7.1f}] {parallel.RANK}: {text}', flush=True)
        alone = record is not None and ('evaluation' in record or 'finetune' in record)
        if record is not None and (alone or parallel.RANK == 0):
            with open(self.file('results.jsonl'), 'a') as out:
                out.write(json.dumps({'at': round(time.time() - self.began, 1), **record}) + '\n')

    def control(self, stage: str):
        """Rank 0's reading of control.json, so that all do the same."""
        path = self.file('control.json')
        return parallel.from_first(json.loads(path.read_text()).get(stage) if path.exists() else None)

    def _wait(self, name: str):
        while not self.file(name).exists():
            time.sleep(0.2)
        return self.file(name)

    # ---- stages

    def generate(self):
        """This process's share of the dense model's own text."""
        path = self.file(f'self.{parallel.RANK}.npz')
        arrays = dict(np.load(self._wait('seeds.npz')))
        self.seeds = {name: unragged(arrays, name) for name in ('chat', 'text')}
        self.seeds |= {k: arrays[k].tolist() for k in ('user_header', 'after_user', 'after_assistant')}
        spec, made = self.recipe['generate'], {}
        if spec['chat']['rounds'] or spec['text']['rounds']:
            if not path.exists():
                np.savez(path, **self_text(self.config, self.dense, self.seeds, spec, self.log))
            made = dict(np.load(path))
        self.own = {name: torch.from_numpy(rows.ravel().astype(np.int32)).to(DEVICE) for name, rows in made.items()}
        self.questions = first_questions(made.get('self_chat', []), self.seeds['after_user'], 200)

    def read_streams(self):
        """Of every corpus this process's part, and the teacher's states of it if they fit into memory."""
        arrays = dict(np.load(self._wait('tokens.npz')))
        self.arrays = dict(np.load(self._wait('eval.npz')))
        arrays['web'] = self.arrays['train_web']
        self.evaluator = Evaluator(self.config, self.teacher, self.arrays, short=self.recipe.get('short', False))
        self.streams = dict(self.own)
        for name, ids in arrays.items():
            part = len(ids) // parallel.WORLD
            mine = ids[parallel.RANK * part : (parallel.RANK + 1) * part]
            self.streams[name] = torch.from_numpy(mine.astype(np.int32)).to(DEVICE)
        self.log('tokens of each', record={'tokens': {k: len(v) for k, v in self.streams.items()}})
        spec, began, self.remembered = self.recipe['train'], time.time(), None
        if spec.get('remember', True):
            self.remembered = {name: self.remember(self.streams[name]) for name in spec['mix'] if name in self.streams}
            hosted = [name for name, states in self.remembered.items() if states.device.type != DEVICE]
            self.log(f'remembered in {time.time() - began:.1f} s, {memory()}, in the host: {hosted}')

    def remember(self, stream):
        """The teacher's states, in the host's memory if the GPU would have less than the recipe's reserve (GiB) left."""
        spec, place = self.recipe['train'], DEVICE
        if DEVICE == 'cuda' and spec.get('reserve'):
            free = torch.cuda.get_device_properties(0).total_memory - torch.cuda.memory_allocated()
            fits = len(stream) * self.config.hidden * COMPUTE.itemsize < free - spec['reserve'] * 2**30
            place = DEVICE if fits else 'cpu'
        return remember(self.trainer.plain, self.teacher, stream, spec['length'], spec['batch'], place)

    def calibration(self, parts: int) -> torch.Tensor:
        """[windows / parts, length] of the recipe's mix, from this process's streams."""
        spec = self.recipe['prune']
        generator = torch.Generator().manual_seed(spec['seed'] + parallel.RANK)
        rows = []
        for name, count in spec['calibration'].items():
            stream, count = self.streams[name], max(1, count // parts)
            starts = torch.randint(max(1, len(stream) - spec['length']), (count,), generator=generator).to(DEVICE)
            rows.append(stream[starts[:, None] + torch.arange(spec['length'], device=DEVICE)[None]].long())
        return torch.cat(rows)

    def prune(self, name: str, params: dict, target: float, allocation: dict | None = None, together=True) -> dict:
        path = self.file(f'{name}.pt')
        if path.exists():
            return torch.load(path, map_location=DEVICE)
        began, allocation = time.time(), allocation or {}
        shares = allocate(self.config, target, allocation.get('kinds', {}), allocation.get('layers', {}))
        rows = self.calibration(parallel.WORLD if together else 1)
        result = sparsegpt(self.plain, params, rows, shares, together=together)
        self.log(
            f'PRUNE {name} to {sparsity(result):.4f}, {time.time() - began:.1f} s',
            record={'prune': name, 'sparsity': sparsity(result), 'allocation': allocation},
        )
        self.save(path, result, not together or parallel.RANK == 0)
        return result

    def save(self, path, params, mine: bool):
        if mine:
            torch.save(params, path.with_suffix('.partial'))
            path.with_suffix('.partial').rename(path)

    def model(self, name: str) -> dict:
        """The weights of a stage (or 'dense'): read if its folder is there, else made from the stage that it starts from."""
        if name == 'dense':
            return self.dense
        if name not in self.made:
            if self.file(name).exists():
                self.made[name] = checkpoint.load(self.file(name))[1]
            else:
                spec = self.recipe['stages'][name]
                start = self.model(spec['from'])
                if spec.get('prune'):
                    allocation = spec.get('allocation', self.recipe['prune'].get('allocation'))
                    start = self.prune(f'{name}-start', start, spec['prune'], allocation)
                self.made[name] = self.train(name, start)
        return self.made[name]

    def train(self, name: str, params: dict) -> dict:
        stages = self.recipe['stages']
        spec = self.recipe['train'] | stages[name] | (self.control(name) or {})
        more, interludes = {}, []
        if self.control('train_until') and not spec.get('tokens'):  # the machine's time ends: the stages left share its seconds
            left = [s['share'] for n, s in stages.items() if not self.file(n).exists()]
            now = parallel.from_first(time.time())

            def ends():
                seconds = self.control('train_until') - now - 12 * (len(left) - 1)
                return now + max(1.0, seconds * spec['share'] / sum(left))

            more['ends'] = ends
        if spec.get('export_seconds') and parallel.RANK == 0:
            more['export'] = lambda student: self.export(name, student)
        if spec.get('own'):
            spec['interlude_grid'], spec['interlude_seconds'] = spec['own']['grid'], spec['own']['seconds']
            interludes = [
                (at, lambda student, n=n: self.own_chats(student, spec, n)) for n, at in enumerate(spec['own']['at'])
            ]
        resume = str(self.file(f'{name}.resume')) if spec.get('checkpoint_seconds') else None
        self.trainer.together = not spec.get('apart')
        result = self.trainer.run(
            name, params, self.streams, spec, resume, remembered=self.remembered, interludes=interludes, **more
        )
        if spec.get('apart'):  # each process its own copy on its own text, all under one mask: their mean keeps it
            result = tree_map(lambda t: parallel.sum_over_ranks(t.clone()) / parallel.WORLD, result)
            self.trainer.together = True
        digest = checkpoint.mask_digest(self.config, result)
        self.log(f'{name}: masks sha256 {digest}', record={'masks': name, 'sha256': digest})
        if parallel.RANK == 0:
            checkpoint.save(self.file(f'{name}.partial'), self.config, result)
            for grid in spec.get('codes', []):
                checkpoint.save_codes(self.file(f'{name}.partial') / f'{grid}.safetensors', self.config, result, grid)
            self.file(f'{name}.partial').rename(self.file(name))
        self.log(f'EXPORTED {name}')
        parallel.barrier()
        return result

    def export(self, name: str, student: dict):
        """The weights of the moment as i8 codes, in the place of those written before: for a run that may be cut off."""
        began, path = time.time(), self.file(f'{name}.i8.safetensors')
        checkpoint.save_codes(path.with_suffix('.partial'), self.config, student, 'i8')
        path.with_suffix('.partial').replace(path)
        self.log(f'{path.name} written in {time.time() - began:.1f} s')

    def own_chats(self, student, spec, number):
        """Fresh chats of the student, beside those that it wrote earlier in this stage."""
        if DEVICE == 'cuda':
            torch.cuda.empty_cache()
        settings = spec['own'] | {'seed': spec['seed'] + 100 * number}
        fresh = own_chats(self.config, student, self.questions, self.seeds, settings, self.log)
        self.written = np.concatenate([self.written, fresh]) if number else fresh
        stream = torch.from_numpy(self.written.ravel().astype(np.int32)).to(DEVICE)
        states = {} if self.remembered is None else {'own_chat': self.remember(stream)}
        self.log(f'own chats, {memory()}')
        return {'own_chat': stream}, states, spec['own']['mix']

    def evaluate(self, name: str, params: dict, grid: str):
        """grid: i8, i4, f16, or text: f16 on the text alone."""
        label = name if grid == 'f16' else f'{name}-{grid}'
        if self.file(f'{label}.json').exists():
            return
        began = time.time()
        result = {'model': name, 'weights': grid, 'sparsity': sparsity(params)}
        rounded = None if grid in ('f16', 'text') else grid
        result |= self.evaluator.full(checkpoint.as_shipped(params), rounded, tasks=grid != 'text')
        self.file(f'{label}.json').write_text(json.dumps(result))
        brief = {task: round(next(reversed(v.values()))['value'], 2) for task, v in result.get('tasks', {}).items()}
        brief |= {'loops': round(result['loops']['value'], 1)} if 'loops' in result else {}
        self.log(
            f'EVAL {label}: wikitext2 {result["wikitext2"]:.3f} kl {result["kl"]["mean_outside"]:.4f} {brief} '
            f'({time.time() - began:.1f} s)',
            record={'evaluation': label, **result},
        )

    def evaluate_all(self):
        """Rows of the table, dealt out as processes become free; a one-shot model is pruned by the process that evaluates it."""
        made = {}

        def one_shot(name):
            if name not in made:
                made[name] = self.prune(name, self.dense, int(name.removeprefix('sgpt')) / 100, together=False)
            return made[name]

        for name, grids in self.recipe['evaluate'].items():
            for grid in grids:
                if parallel.claim(self.work, f'{name}-{grid}'):
                    params = one_shot(name) if name.startswith('sgpt') else self.model(name)
                    self.evaluate(name, params, grid)

    def finetune(self):
        arrays = dict(np.load(self._wait('finetune.npz')))
        spec, folder = self.recipe['finetune'], self.file('finetuned')
        folder.mkdir(exist_ok=True)
        sparse = {name: self.model(stage) for name, stage in spec['models'].items()}
        FineTuner(self.config, self.dense, sparse, arrays, spec, folder, self.trainer).run()

    def main(self):
        r = self.recipe
        for folder in (self.work, self.file('finetuned')):
            parallel.forget_claims(folder)
        self.generate()
        self.read_streams()
        for name in self.control('wait_for') or []:  # stages of an earlier run, on their way
            self._wait(name)
        parallel.barrier()
        self.made = {}
        wanted = [n for n in (*r['evaluate'], *r.get('finetune', {}).get('models', {}).values()) if n in r['stages']]
        for name in wanted:
            self.model(name)
        self.remembered = None  # the streams stay: one-shot models are calibrated on them
        if DEVICE == 'cuda':
            torch.cuda.empty_cache()
        self.evaluate_all()
        if r.get('finetune'):
            self.finetune()
        parallel.barrier()
        self.log('END')


def memory() -> str:
    return f'{torch.cuda.memory_allocated() / 2**30:.0f} GiB' if DEVICE == 'cuda' else 'no GPU'


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
    batch, length = recipe['train']['batch'], recipe['train']['length']
    states = {'x': remember(trainer.plain, teacher, streams['x'][: 80 * length + 1], length, batch)}
    streams['x'] = streams['x'][: 80 * length + 1]
    spec = recipe['train'] | {'mix': {'x': 1.0}, 'qat_from': 0.5, 'tokens': 24 * batch * length * parallel.WORLD}
    spec |= {'log_every': 3, 'ce': 0.1, 'qat': {'i8': 0.5, 'i4': 0.5}}
    trainer.run(f'batch of {batch} x {length}', params, streams, spec, remembered=states)
    if recipe.get('finetune'):  # each process alone, another batch, the teacher asked in every step
        trainer.together, tuning = False, recipe['finetune']['train'] | recipe['finetune']['sparse']
        spec |= tuning | {'tokens': 6 * tuning['batch'] * tuning['length'], 'qat_from': 1.0}
        trainer.run('fine-tune', params, streams, spec)
    say(f'training peaks at {torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else 0:.0f} GiB')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('recipe', type=Path)
    parser.add_argument('--work', type=Path, required=True)
    parser.add_argument('--layers', type=int, help='keep only the first layers: a dry run')
    parser.add_argument('--only', metavar='STAGE', help='of a sweep, whose stages do not depend on each other')
    parser.add_argument('--warm', action='store_true', help='only compile and time')
    args = parser.parse_args()
    torch.set_float32_matmul_precision('high')
    parallel.setup()
    document = yaml.safe_load(args.recipe.read_text())
    args.work.mkdir(parents=True, exist_ok=True)
    if args.warm:
        warm(document)
    else:
        Run(document, args.work, args.layers, args.only).main()
