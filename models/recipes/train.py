"""Training with frozen masks and distillation from the dense model, on one GPU or on several (each its own data)."""

import math
import os
import time

import torch
import torch._dynamo

import parallel
from flat import Flat
from loss import DistillLoss, distill_chunk, feature_distance
from mixture import Mixture
from model import DEVICE, MATRICES, Llama, tree_map
from optim import Muon


def muon_stacks(config, params):
    stacks = []
    for matrix in MATRICES:
        for first, last in config.row_groups(matrix).values():
            stacks.append([(layer[matrix], first, last) for layer in params['layers']])
    return stacks


def schedule(step: int, total: int, warmup: float, floor: float) -> float:
    done = min(1.0, step / total)
    if done < warmup:
        return (step + 1) / (total * warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


class Optimizer:
    """AdamW without decay over the flat vector; or Muon for the matrices and AdamW for the rest. A zero gradient moves nothing."""

    def __init__(self, flat: Flat, weights: torch.Tensor, gradient: torch.Tensor, views: dict, kind: str):
        spans = [slice(0, flat.size)]
        if kind == 'muon':
            spans = [slice(0, flat.embed_end), slice(flat.matrices_end, flat.size)]
        parts = [weights[span] for span in spans]
        for part, span in zip(parts, spans):
            part.grad = gradient[span]
        self.adam = torch.optim.AdamW(parts, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=DEVICE == 'cuda')
        self.muon = Muon(muon_stacks(flat.config, views)) if kind == 'muon' else None

    def step(self, lr: float):
        for group in self.adam.param_groups:
            group['lr'] = lr
        self.adam.step()
        if self.muon:
            self.muon.step(lr)

    def state_dict(self):
        return {'adam': self.adam.state_dict(), 'muon': self.muon.state_dict() if self.muon else None}

    def load_state_dict(self, state):
        self.adam.load_state_dict(state['adam'])
        if self.muon:
            self.muon.load_state_dict(state['muon'])


class Trainer:
    """Holds the compiled forward passes, so that several runs of one process share them."""

    def __init__(self, config, teacher, log, compiled: bool, together: bool = True):
        """together: the processes train one model; else each its own."""
        self.config, self.teacher, self.log, self.together = config, teacher, log, together
        self.plain = Llama(config, compiled=compiled)
        self.integer = Llama(config, activations='i8', compiled=compiled)
        self.flat = Flat(config)
        if compiled:
            # one code object serves teacher, student and rounded student in several batch sizes
            torch._dynamo.config.recompile_limit = 64
            DistillLoss.kernel = staticmethod(torch.compile(distill_chunk, dynamic=False))
            self.flat.compiled()

    def run(self, name: str, params: dict, streams: dict, spec: dict, checkpoint: str | None = None, **more) -> dict:
        """Trains `params` (zeros are the mask) and returns the trained copy.

        spec: tokens (over all processes) or seconds, batch (of one process), length, lr, warmup, floor, kd, ce, features, optimizer,
        mix, seed, qat_from (share of the run after which weights are rounded), qat (weights: share of the rounded steps).
        more: remembered, the teacher's states per stream (mixture.py); teacher, another than the dense model; interludes,
        [(share of the run, function of the weights that returns further streams, their states and the mix from then on)].
        """
        world, rank = (parallel.WORLD, parallel.RANK) if self.together else (1, 0)
        teacher, remembered = more.get('teacher', self.teacher), more.get('remembered')
        if DEVICE == 'cuda':
            torch.cuda.empty_cache()
        flat = self.flat
        theta = flat.vector(params)
        mask = flat.mask(theta)
        gradient, rounded = torch.zeros_like(theta), torch.empty_like(theta)
        plain, quantized = flat.leaves(theta, gradient), flat.leaves(rounded, gradient)
        optimizer = Optimizer(flat, theta, gradient, plain, spec['optimizer'])
        mixture = lambda streams, mix, seed, states: Mixture(  # noqa: E731
            streams, mix, spec['length'], seed + 1000 * rank, spec['ce'], states
        )
        data = mixture(streams, spec['mix'], spec['seed'], remembered)
        per_step = spec['batch'] * spec['length'] * world
        total = max(2, round(spec.get('tokens', 0) / per_step)) if spec.get('tokens') else 10**9
        interludes = sorted(more.get('interludes', []), key=lambda i: i[0])
        step = 0
        if checkpoint and os.path.exists(f'{checkpoint}.{rank}'):
            step = self._restore(f'{checkpoint}.{rank}', theta, optimizer, data)
            self.log(f'{name}: resumed at step {step}')
        chooser = torch.Generator().manual_seed(spec['seed'] + 1)
        began = last = saved = time.time()
        ends = began + spec.get('seconds', 0)
        sums, seen, history = torch.zeros(2, device=DEVICE), 0, []
        qat_from, log_every = spec.get('qat_from', 1.0), spec.get('log_every', 20)
        while step < total:
            if interludes and total < 10**9 and step >= interludes[0][0] * total:
                flat.round_into(rounded, theta, spec.get('interlude_grid', 'i4'))
                extra, states, mix = interludes.pop(0)[1](tree_map(lambda t: t.detach(), quantized))
                remembered = None if remembered is None else remembered | states
                data = mixture(streams | extra, mix, spec['seed'] + 7, remembered)
                sums.zero_()
                seen, last = 0, time.time()
            lr = spec['lr'] * schedule(step, total, spec['warmup'], spec['floor'])
            if total == 10**9:
                lr = spec['lr'] * 0.2  # the first steps of a run by time, before its length is known
            x, y, ce, states = data.next(spec['batch'])
            grid, weights, llama = None, plain, self.plain
            if step >= qat_from * total:
                share = spec['qat']
                grid = list(share)[int(torch.multinomial(torch.tensor(list(share.values())), 1, generator=chooser))]
                flat.round_into(rounded, theta, grid)
                weights, llama = quantized, self.integer
            gradient.zero_()
            loss, kl, nll = self._loss(llama, weights, teacher, states, x, y, ce, spec)
            loss.backward()  # straight through the rounding: both forms of the weights add up in `gradient`
            with torch.no_grad():
                if world > 1:
                    parallel.sum_over_ranks(gradient)
                gradient.mul_(mask)
                norm = gradient.norm() / world
                gradient.mul_(torch.clamp(1.0 / (norm + 1e-6), max=1.0) / world)
                optimizer.step(lr)
                if optimizer.muon:  # its step is no elementwise one
                    theta.mul_(mask)
                sums += torch.stack([kl, nll])
            step, seen = step + 1, seen + 1
            if step % log_every == 0 or step >= total:
                if world > 1:
                    parallel.sum_over_ranks(sums)
                k, n = (sums / seen / world).tolist()
                now = time.time()
                tokens = step * per_step
                history.append([tokens, round(k, 4), round(n, 4)])
                self.log(
                    f'{name} step {step}/{total} {tokens / 1e6:.1f} M lr {lr:.2e} kl {k:.4f} ce {n:.4f} '
                    f'{grid or "-"} {seen * per_step / (now - last):.0f} tokens/s'
                )
                if not k < 50:
                    raise RuntimeError(f'{name} diverged at step {step}: lower lr')
                if spec.get('seconds'):  # as many steps as fit, at the speed of the last ones
                    left = max(0.0, ends - now - spec.get('interlude_seconds', 0) * len(interludes))
                    total = step + int(left / ((now - last) / seen)) if step > log_every else total
                    total = parallel.from_first(total) if world > 1 else total
                sums.zero_()
                seen, last = 0, time.time()
            if checkpoint and time.time() - saved > spec.get('checkpoint_seconds', 120):
                self._save(f'{checkpoint}.{rank}', step, theta, optimizer, data)
                saved = last = time.time()
        result = tree_map(lambda t: t.detach(), flat.tree(theta))
        self.log(
            f'{name} done',
            record={
                'run': name,
                'seconds': round(time.time() - began, 1),
                'steps': step,
                'gpus': world,
                'drawn_by_each': data.drawn,
                'spec': spec,
                'history': history,
            },
        )
        return result

    def _loss(self, llama, weights, teacher, states, x, y, ce, spec):
        with_features = spec.get('features', 0.0) > 0 and llama is self.plain
        theirs, mine = ([], []) if with_features else (None, None)
        if states is None or with_features:
            with torch.no_grad():
                states = self.plain.hidden(teacher, x, theirs)
        h = llama.hidden(weights, x, mine)
        flat = lambda t: t.reshape(-1, self.config.hidden)  # noqa: E731
        loss, kl, nll = DistillLoss.apply(
            flat(h), weights['embed'], flat(states), teacher['embed'], y.reshape(-1), spec['kd'], ce
        )
        if with_features:
            loss = loss + spec['features'] * feature_distance(mine, theirs)
        return loss, kl, nll

    @staticmethod
    def _save(path, step, theta, optimizer, data):
        state = {'step': step, 'theta': theta, 'optimizer': optimizer.state_dict(), 'data': data.state()}
        torch.save(state, path + '.partial')
        os.replace(path + '.partial', path)

    @staticmethod
    def _restore(path, theta, optimizer, data) -> int:
        state = torch.load(path, map_location=DEVICE, weights_only=False)
        theta.copy_(state['theta'])
        optimizer.load_state_dict(state['optimizer'])
        data.restore(state['data'])
        return state['step']
