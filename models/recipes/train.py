"""Training with frozen masks and distillation from the dense model."""

import math
import os
import time

import torch
import torch._dynamo

from model import DEVICE, MATRICES, Llama, matrices_of, tensors_of, tree_map
from optim import Muon
from quantize import quantize_params


def _distill_chunk(h, head, teacher_h, teacher_head, target, kd, ce, scale):
    student = (h @ head.t()).float()
    teacher = (teacher_h @ teacher_head.t()).float()
    log_s = student - torch.logsumexp(student, -1, keepdim=True)
    log_t = teacher - torch.logsumexp(teacher, -1, keepdim=True)
    p_t = log_t.exp()
    one_hot = (torch.arange(head.shape[0], device=h.device)[None] == target[:, None]).float()
    kl = (p_t * (log_t - log_s)).sum()
    nll = -(log_s * one_hot).sum()
    grad = (((kd + ce) * log_s.exp() - kd * p_t - ce * one_hot) * scale).to(h.dtype)
    return kl, nll, grad


class DistillLoss(torch.autograd.Function):
    """kd * KL(teacher || student) + ce * cross-entropy, mean over tokens, without ever holding all logits.

    Gradients of the logits are formed chunk by chunk in the forward pass; the head is tied to the embedding.
    """

    chunk = 8192
    kernel = staticmethod(_distill_chunk)

    @staticmethod
    def forward(ctx, h, embed, teacher_h, teacher_head, target, kd, ce):
        count, head = h.shape[0], embed.detach().to(h.dtype)
        grad_h = torch.empty_like(h)
        grad_head = torch.zeros_like(embed, dtype=torch.float32)
        kl = nll = torch.zeros((), device=h.device)
        raise_by = 4096.0  # keeps bf16 logit gradients in range; divided out below
        kd_t, ce_t = torch.tensor(float(kd), device=h.device), torch.tensor(float(ce), device=h.device)
        for i in range(0, count, DistillLoss.chunk):
            part = slice(i, i + DistillLoss.chunk)
            k, n, g = DistillLoss.kernel(
                h[part], head, teacher_h[part], teacher_head, target[part], kd_t, ce_t, raise_by / count
            )
            kl, nll = kl + k, nll + n
            grad_h[part] = (g @ head) / raise_by
            grad_head += g.t() @ h[part]
        ctx.save_for_backward(grad_h, grad_head / raise_by)
        kl, nll = kl / count, nll / count
        ctx.mark_non_differentiable(kl, nll)
        return kd * kl + ce * nll, kl, nll

    @staticmethod
    def backward(ctx, grad, *_):
        grad_h, grad_head = ctx.saved_tensors
        return grad_h * grad.to(grad_h.dtype), grad_head * grad, None, None, None, None, None


class Mixture:
    """Windows of `length` + 1 tokens drawn from named streams in fixed proportions, each stream without replacement."""

    def __init__(self, streams: dict, weights: dict[str, float], length: int, seed: int):
        self.names = [n for n in weights if n in streams and len(streams[n]) > length + 1 and weights[n] > 0]
        self.weights = torch.tensor([weights[n] for n in self.names])
        self.streams, self.length = streams, length
        self.generator = torch.Generator().manual_seed(seed)
        self.order = {n: torch.empty(0, dtype=torch.long) for n in self.names}
        self.span = torch.arange(length + 1, device=DEVICE)
        self.drawn = {n: 0 for n in self.names}

    def next(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        picks = torch.multinomial(self.weights, batch, replacement=True, generator=self.generator)
        rows = []
        for number, count in enumerate(torch.bincount(picks, minlength=len(self.names)).tolist()):
            if not count:
                continue
            name = self.names[number]
            windows = (len(self.streams[name]) - 1) // self.length
            while len(self.order[name]) < count:
                fresh = torch.randperm(windows, generator=self.generator)
                self.order[name] = torch.cat([self.order[name], fresh])
            chosen, self.order[name] = self.order[name][:count], self.order[name][count:]
            starts = chosen.to(DEVICE, non_blocking=True) * self.length
            rows.append(self.streams[name][starts[:, None] + self.span[None]].long())
            self.drawn[name] += count * self.length
        window = torch.cat(rows)
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()

    def state(self):
        return {'generator': self.generator.get_state(), 'order': self.order, 'drawn': self.drawn}

    def restore(self, state):
        self.generator.set_state(state['generator'])
        self.order, self.drawn = state['order'], state['drawn']


def feature_distance(student: list, teacher: list) -> torch.Tensor:
    """SquareHead (arXiv 2310.06927): squared distance of layer outputs over the teacher's squared norm, per token."""
    pairs = zip(student, teacher)
    each = [
        ((s.float() - t.float()).pow(2).sum(-1) / (t.float().pow(2).sum(-1) + 1e-6)).mean() for s, t in pairs
    ]
    return torch.stack(each).mean()


def muon_stacks(config, params):
    stacks = []
    for matrix in MATRICES:
        for first, last in config.row_groups(matrix).values():
            stacks.append([(layer[matrix], first, last) for layer in params['layers']])
    return stacks


def schedule(step: int, total: int, warmup: float, floor: float) -> float:
    done = step / total
    if done < warmup:
        return (step + 1) / (total * warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


class Trainer:
    """Holds the compiled forward passes, so that several runs of one process share them."""

    def __init__(self, config, teacher, log, compiled: bool):
        self.config, self.teacher, self.log = config, teacher, log
        self.plain = Llama(config, compiled=compiled)
        self.integer = Llama(config, activations='i8', compiled=compiled)
        if compiled:
            # one code object serves teacher, student and rounded student in several batch sizes
            torch._dynamo.config.recompile_limit = 64
            DistillLoss.kernel = staticmethod(torch.compile(_distill_chunk, dynamic=False))

    def run(self, name: str, params: dict, streams: dict, spec: dict, checkpoint: str | None = None) -> dict:
        """Trains `params` (zeros are the mask) and returns the trained copy.

        spec: tokens, batch, length, lr, warmup, floor, kd, ce, features, optimizer, mix, seed, qat_from (share of the
        run after which weights are rounded), qat (weights: share of the rounded steps).
        """
        torch.cuda.empty_cache() if DEVICE == 'cuda' else None
        params = tree_map(lambda t: t.detach().clone().requires_grad_(True), params)
        everything, pruned = tensors_of(params), matrices_of(params)
        masks = [(w.detach() != 0).to(w.dtype) for w in pruned]
        data = Mixture(streams, spec['mix'], spec['length'], spec['seed'])
        total = max(2, round(spec['tokens'] / (spec['batch'] * spec['length'])))
        pruned_ids = {id(w) for w in pruned}
        with_adam = everything
        muon = None
        if spec['optimizer'] == 'muon':
            with_adam = [t for t in everything if id(t) not in pruned_ids]
            muon = Muon(muon_stacks(self.config, params))
        adam = torch.optim.AdamW(
            with_adam, lr=spec['lr'], betas=(0.9, 0.95), weight_decay=0.0, fused=DEVICE == 'cuda'
        )
        start = 0
        if checkpoint and os.path.exists(checkpoint):
            start = self._restore(checkpoint, params, adam, muon, data)
            self.log(f'{name}: resumed at step {start} of {total}')
        chooser = torch.Generator().manual_seed(spec['seed'] + 1)
        began = last = saved = time.time()
        sums, seen, history = torch.zeros(2, device=DEVICE), 0, []
        for step in range(start, total):
            lr = spec['lr'] * schedule(step, total, spec['warmup'], spec['floor'])
            x, y = data.next(spec['batch'])
            grid = None
            if step >= spec.get('qat_from', 1.0) * total:
                share = spec['qat']
                pick = torch.multinomial(torch.tensor(list(share.values())), 1, generator=chooser)
                grid = list(share)[int(pick)]
            loss, kl, nll = self._loss(params, x, y, spec, grid)
            loss.backward() if grid is None else self._backward_through_rounding(loss, params)
            with torch.no_grad():
                torch._foreach_mul_([w.grad for w in pruned], masks)
                torch.nn.utils.clip_grad_norm_(with_adam, 1.0, foreach=True)
                for group in adam.param_groups:
                    group['lr'] = lr
                adam.step()
                if muon:
                    muon.step(lr)
                torch._foreach_mul_(pruned, masks)
                adam.zero_grad(set_to_none=True)
                for w in pruned:
                    w.grad = None
                sums += torch.stack([kl, nll])
            seen += 1
            if (step + 1) % spec.get('log_every', 20) == 0 or step + 1 == total:
                k, n = (sums / seen).tolist()
                now = time.time()
                rate = seen * spec['batch'] * spec['length'] / (now - last)
                tokens = (step + 1) * spec['batch'] * spec['length']
                history.append([tokens, round(k, 4), round(n, 4)])
                self.log(
                    f'{name} step {step + 1}/{total} {tokens / 1e6:.1f} M lr {lr:.2e} kl {k:.4f} ce {n:.4f} '
                    f'{grid or "-"} {rate:.0f} tokens/s'
                )
                if not k < 50:
                    raise RuntimeError(f'{name} diverged at step {step + 1}: lower lr')
                sums.zero_()
                seen, last = 0, now
            if checkpoint and time.time() - saved > spec.get('checkpoint_seconds', 120):
                self._save(checkpoint, step + 1, params, adam, muon, data)
                saved = last = time.time()
        result = tree_map(lambda t: t.detach(), params)
        self.log(
            f'{name} done',
            record={
                'run': name,
                'seconds': round(time.time() - began, 1),
                'steps': total,
                'drawn': data.drawn,
                'spec': spec,
                'history': history,
            },
        )
        return result

    def _loss(self, params, x, y, spec, grid):
        with_features = spec.get('features', 0.0) > 0 and grid is None
        theirs, mine = ([], []) if with_features else (None, None)
        with torch.no_grad():
            teacher_h = self.plain.hidden(self.teacher, x, theirs)
        weights, llama = params, self.plain
        if grid is not None:
            with torch.no_grad():
                rounded = quantize_params(params, grid)
            self.rounded = weights = tree_map(lambda t: t.detach().requires_grad_(True), rounded)
            llama = self.integer
        h = llama.hidden(weights, x, mine)
        flat = lambda t: t.reshape(-1, self.config.hidden)  # noqa: E731
        loss, kl, nll = DistillLoss.apply(
            flat(h), weights['embed'], flat(teacher_h), self.teacher['embed'], y.reshape(-1), spec['kd'], spec['ce']
        )
        if with_features:
            loss = loss + spec['features'] * feature_distance(mine, theirs)
        return loss, kl, nll

    def _backward_through_rounding(self, loss, params):
        """Straight-through: the gradient at the rounded weights is taken as the gradient of the weights."""
        loss.backward()
        for weight, rounded in zip(tensors_of(params), tensors_of(self.rounded)):
            weight.grad = rounded.grad
        self.rounded = None

    @staticmethod
    def _save(path, step, params, adam, muon, data):
        state = {
            'step': step,
            'params': [t.detach() for t in tensors_of(params)],
            'adam': adam.state_dict(),
            'muon': muon.state_dict() if muon else None,
            'data': data.state(),
        }
        torch.save(state, path + '.partial')
        os.replace(path + '.partial', path)

    @staticmethod
    def _restore(path, params, adam, muon, data) -> int:
        state = torch.load(path, map_location=DEVICE, weights_only=False)
        with torch.no_grad():
            for mine, saved in zip(tensors_of(params), state['params']):
                mine.copy_(saved)
        adam.load_state_dict(state['adam'])
        if muon:
            muon.load_state_dict(state['muon'])
        data.restore({**state['data'], 'generator': state['data']['generator'].cpu()})
        return state['step']
