"""What a training step reads: windows of named token streams, with the teacher's final hidden states remembered beside them."""

import torch

from model import COMPUTE, DEVICE


class Mixture:
    """Windows of `length` + 1 tokens drawn from named streams in fixed proportions, each stream without replacement.

    streams: name -> int32 ids on the device, this process's share. weights: name -> share of the windows. ce: name -> weight of
    cross-entropy on that stream, or one number for all. remembered: name -> [windows, length, hidden] of the teacher, or None.
    """

    def __init__(self, streams: dict, weights: dict[str, float], length: int, seed: int, ce=0.0, remembered=None):
        self.names = [n for n in weights if n in streams and len(streams[n]) > length + 1 and weights[n] > 0]
        self.weights = torch.tensor([weights[n] for n in self.names])
        self.streams, self.length, self.remembered = streams, length, remembered
        self.ce = {n: ce if isinstance(ce, float) else ce.get(n, ce.get('other', 0.0)) for n in self.names}
        self.generator = torch.Generator().manual_seed(seed)
        self.order = {n: torch.empty(0, dtype=torch.long) for n in self.names}
        self.span = torch.arange(length + 1, device=DEVICE)
        self.drawn = {n: 0 for n in self.names}

    def next(self, batch: int):
        """ids [batch, length], next ids, weight of cross-entropy per token [batch * length], the teacher's states or None."""
        picks = torch.multinomial(self.weights, batch, replacement=True, generator=self.generator)
        rows, states, weights = [], [], []
        for number, count in enumerate(torch.bincount(picks, minlength=len(self.names)).tolist()):
            if not count:
                continue
            name = self.names[number]
            windows = (len(self.streams[name]) - 1) // self.length
            while len(self.order[name]) < count:
                fresh = torch.randperm(windows, generator=self.generator)
                self.order[name] = torch.cat([self.order[name], fresh])
            chosen, self.order[name] = self.order[name][:count], self.order[name][count:]
            chosen = chosen.to(DEVICE, non_blocking=True)
            rows.append(self.streams[name][(chosen * self.length)[:, None] + self.span[None]].long())
            if self.remembered is not None:
                states.append(self.remembered[name][chosen])
            weights += [self.ce[name]] * count
            self.drawn[name] += count * self.length
        window = torch.cat(rows)
        ce = torch.tensor(weights).to(DEVICE, non_blocking=True).repeat_interleave(self.length)
        teacher = torch.cat(states) if states else None
        return window[:, :-1].contiguous(), window[:, 1:].contiguous(), ce, teacher

    def state(self):
        return {'generator': self.generator.get_state(), 'order': self.order, 'drawn': self.drawn}

    def restore(self, state):
        self.generator.set_state(state['generator'].cpu())
        self.order = {n: order.cpu() for n, order in state['order'].items()}
        self.drawn = state['drawn']


@torch.no_grad()
def remember(llama, teacher: dict, stream: torch.Tensor, length: int, batch: int) -> torch.Tensor:
    """The teacher's final hidden states of every window of a stream: read again each epoch, they save a fifth of the arithmetic."""
    windows = (len(stream) - 1) // length
    out = torch.empty(windows, length, llama.config.hidden, dtype=COMPUTE, device=DEVICE)
    ids = stream[: windows * length].view(windows, length)
    for start in range(0, windows, batch):
        part = ids[start : start + batch].long()
        count = len(part)
        if count < batch:  # compiled for one batch size
            part = torch.cat([part, part[:1].expand(batch - count, length)])
        out[start : start + count] = llama.hidden(teacher, part)[:count]
    return out
