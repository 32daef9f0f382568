"""Training with distillation from the dense model, the mask searched first or frozen from the start, on one GPU or on several
(each its own data)."""

import math
import os
import time

import torch
import torch._dynamo

import parallel
from checkpoint import mask_digest
from flat import Flat
from loss import DistillLoss, distill_chunk
from mixture import Mixture
from model import DEVICE, Llama, sparsity, tree_map
from search import MaskSearch


def schedule(step: int, total: int, warmup: float, floor: float) -> float:
    done = min(1.0, step / total)
    if done < warmup:
        return (step + 1) / (total * warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


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
        """Trains `params` and returns the trained copy. Their zeros are the mask, unless the spec has a search: then the mask is
        looked for first, and frozen.

        spec: tokens (over all processes), unless `ends` is given, batch (of one process), length, lr, warmup, floor, mix, seed,
        kd, ce and avoid (mixture.py), search (search.py), qat_from (share of the run after which weights are rounded), qat
        (weights: share of the rounded steps).
        more: remembered, the teacher's states per stream (mixture.py); teacher, another than the dense model; interludes,
        [(share of the run, function of the weights that returns further streams, their states and the mix from then on)];
        ends, a function that returns the time when the run shall be over, asked again and again; export, a function of the
        weights, called about every export_seconds.
        """
        world = parallel.WORLD if self.together else 1
        if DEVICE == 'cuda':
            torch.cuda.empty_cache()
        flat = self.flat
        theta = flat.vector(params)
        gradient, used = torch.zeros_like(theta), torch.empty_like(theta)
        plain, changed = flat.leaves(theta, gradient), flat.leaves(used, gradient)  # changed: masked or rounded, in `used`
        theta.grad = gradient
        adam = torch.optim.AdamW([theta], lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=DEVICE == 'cuda')
        search = MaskSearch(flat, theta, spec['search']) if spec.get('search') else None
        mask = search.mask if search else flat.mask(theta)
        data = Mixture(streams, spec['mix'], spec, more.get('remembered'))
        per_step = spec['batch'] * spec['length'] * world
        total = max(2, round(spec['tokens'] / per_step)) if spec.get('tokens') else 10**9
        if total == 10**9 and 'ends' not in more:
            raise ValueError(f'{name}: neither tokens nor an end')
        interludes = sorted(more.get('interludes', []), key=lambda i: i[0])
        step = 0
        if checkpoint and os.path.exists(f'{checkpoint}.0'):
            step = self._restore(checkpoint, theta, mask, adam, data)
            search = search if search and step < spec['search']['until'] * total else None
            self.log(f'{name}: resumed at step {step}')
        first, chooser = step, torch.Generator().manual_seed(spec['seed'] + 1)
        began = last = saved = exported = time.time()
        ends, pace = more.get('ends'), None
        sums, seen, history = torch.zeros(2, device=DEVICE), 0, []
        qat_from, log_every = spec.get('qat_from', 1.0), spec.get('log_every', 20)
        while step < total:
            if search and step >= spec['search']['until'] * total:
                self._freeze(name, search, theta, adam, step / total)
                search = None
            if interludes and total < 10**9 and step >= interludes[0][0] * total:
                flat.round_into(used, theta, spec.get('interlude_grid', 'i4'))
                extra, states, mix = interludes.pop(0)[1](tree_map(lambda t: t.detach(), changed))
                data.change(extra, mix, states)
                sums.zero_()
                seen, last = 0, time.time()
            lr = spec['lr'] * schedule(step, total, spec['warmup'], spec['floor'])
            if total == 10**9:
                lr = spec['lr'] * 0.2  # the first steps of a run by time, before its length is known
            x, y, weights_of_loss, states = data.next(spec['batch'], min(1.0, step / total))
            grid, weights, llama = None, plain, self.plain
            if search:
                if step % spec['search']['every'] == 0 and step:
                    search.refresh(theta, adam.state[theta]['exp_avg_sq'], step / total)
                torch.mul(theta, mask, out=used)
                weights = changed
            elif step >= qat_from * total:
                share = spec['qat']
                grid = list(share)[int(torch.multinomial(torch.tensor(list(share.values())), 1, generator=chooser))]
                flat.round_into(used, theta, grid)
                weights, llama = changed, self.integer
            gradient.zero_()
            loss, kl, nll = self._loss(llama, weights, more.get('teacher', self.teacher), states, x, y, weights_of_loss)
            loss.backward()  # straight through mask or rounding: all forms of the weights add up in `gradient`
            with torch.no_grad():
                if world > 1:
                    parallel.sum_over_ranks(gradient)
                if not search:
                    gradient.mul_(mask)
                norm = gradient.norm() / world
                gradient.mul_(torch.clamp(1.0 / (norm + 1e-6), max=1.0) / world)
                adam.param_groups[0]['lr'] = lr
                adam.step()  # a gradient and moments of zero move nothing
                if search:
                    search.decay(theta, lr, step / total)
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
                    f'{"search" if search else grid or "-"} {seen * per_step / (now - last):.0f} tokens/s'
                )
                if not k < 50:
                    raise RuntimeError(f'{name} diverged at step {step}: lower lr')
                if ends and step > first + log_every:  # as many steps as fit; compiling now and then is no pace
                    recent = (now - last) / seen
                    pace = 0.8 * pace + 0.2 * min(recent, 1.2 * pace) if pace else recent
                    left = max(0.0, ends() - now - spec.get('interlude_seconds', 0) * len(interludes))
                    total = self._first(step + int(left / pace))
                if 'export' in more and now - exported > spec['export_seconds']:
                    more['export'](tree_map(lambda t: t.detach(), flat.tree(theta)))
                    exported = time.time()
                if checkpoint and self._first(now - saved > spec.get('checkpoint_seconds', 120)):
                    self._save(checkpoint, step, theta, mask, adam, data)
                    saved = time.time()
                sums.zero_()
                seen, last = 0, time.time()
        if not torch.equal(flat.mask(theta), mask):
            raise RuntimeError(f'{name}: a mask moved')
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
        return tree_map(lambda t: t.detach(), flat.tree(theta))

    def _freeze(self, name, search, theta, adam, done):
        """The pruning, after a search."""
        state = adam.state[theta]
        search.refresh(theta, state['exp_avg_sq'], done)
        if self.together:  # the same sums gave every process the same mask; this makes it certain
            parallel.from_first(search.mask.view(torch.uint8))
        search.freeze(theta, state['exp_avg'], state['exp_avg_sq'])
        params = self.flat.tree(theta)
        digest = mask_digest(self.config, params)
        shares = search.kept()
        self.log(
            f'{name}: frozen at {100 * done:.0f} %, sparsity {sparsity(params):.4f}, kept {shares}, sha256 {digest}',
            record={'frozen': name, 'sparsity': sparsity(params), 'kept': shares, 'sha256': digest},
        )

    def _loss(self, llama, weights, teacher, states, x, y, weights_of_loss):
        if states is None:
            with torch.no_grad():
                states = self.plain.hidden(teacher, x)
        flat = lambda t: t.reshape(-1, self.config.hidden)  # noqa: E731
        h = llama.hidden(weights, x)
        return DistillLoss.apply(
            flat(h), weights['embed'], flat(states), teacher['embed'], y.reshape(-1), *weights_of_loss
        )

    def _first(self, value):
        """The first process's value where all train one model: clocks differ."""
        return parallel.from_first(value) if self.together else value

    @staticmethod
    def _save(path, step, theta, mask, adam, data):
        """path.0: step, weights and moments, of the first process (where copies train apart, all go on from its copy); path.data.RANK:
        where each stands in its own text."""
        own = f'{path}.data.{parallel.RANK}'
        torch.save(data.state(), own + '.partial')
        os.replace(own + '.partial', own)
        if parallel.RANK == 0:
            state = {'step': step, 'theta': theta, 'mask': mask, 'optimizer': adam.state_dict()}
            torch.save(state, path + '.partial')
            os.replace(path + '.partial', path + '.0')

    @staticmethod
    def _restore(path, theta, mask, adam, data) -> int:
        state = torch.load(path + '.0', map_location=DEVICE, weights_only=False)
        theta.copy_(state['theta'])
        mask.copy_(state['mask'])
        adam.load_state_dict(state['optimizer'])
        if os.path.exists(f'{path}.data.{parallel.RANK}'):
            data.restore(torch.load(f'{path}.data.{parallel.RANK}', weights_only=False))
        return state['step']
