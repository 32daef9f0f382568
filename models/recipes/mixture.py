"""What a training step reads: windows of named token streams, with the teacher's final hidden states remembered beside them."""

import torch

import parallel
from model import COMPUTE, DEVICE
from repeats import repeats


class Mixture:
    """Windows of `length` + 1 tokens drawn from named streams in fixed proportions, each stream without replacement.

    streams: name -> int32 ids on the device, this process's share. weights: name -> share of the windows. spec: length, seed, and
    the weights of the loss: kd; ce, by stream; avoid, by stream: that of unlikelihood, which takes the place of the others where
    a text only repeats itself; each a number, or [at the start, at the end] of the run. remembered: name ->
    [windows, length, hidden] of the teacher, on the device or in the host's memory, or None.
    """

    def __init__(self, streams: dict, weights: dict[str, float], spec: dict, remembered=None):
        self.length, self.spec = spec['length'], spec
        self.generator = torch.Generator().manual_seed(spec['seed'] + 1000 * parallel.RANK)
        self.span = torch.arange(self.length + 1, device=DEVICE)
        self.streams, self.remembered, self.order, self.drawn = {}, remembered, {}, {}
        self.change(streams, weights, remembered)

    def change(self, streams: dict, weights: dict[str, float], remembered) -> None:
        """Adds or replaces streams, and mixes in these proportions from now on."""
        self.streams = self.streams | streams
        if self.remembered is not None:
            self.remembered = self.remembered | remembered
        self.names = [n for n in weights if len(self.streams.get(n, ())) > self.length + 1 and weights[n] > 0]
        self.weights = torch.tensor([weights[n] for n in self.names])
        empty = torch.empty(0, dtype=torch.long)
        self.order = {n: empty if n in streams else self.order.get(n, empty) for n in self.names}
        self.drawn = {n: 0 for n in self.names} | self.drawn

    def _weight(self, kind: str, name: str, done: float) -> float:
        given = self.spec.get(kind, 0.0)
        value = given.get(name, given.get('other', 0.0)) if isinstance(given, dict) else given
        first, last = value if isinstance(value, list) else (value, value)
        return first + (last - first) * done

    def next(self, batch: int, done: float = 0.0):
        """ids [batch, length], next ids, weights of the loss kd, ce and avoid per token [3, batch * length], the teacher's states
        or None. done: share of the run."""
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
            if self.remembered is not None:
                states.append(gather(self.remembered[name], chosen))
            chosen = chosen.to(DEVICE, non_blocking=True)
            rows.append(self.streams[name][(chosen * self.length)[:, None] + self.span[None]].long())
            weights += [[self._weight(kind, name, done) for kind in ('kd', 'ce', 'avoid')]] * count
            self.drawn[name] += count * self.length
        window = torch.cat(rows)
        kd, ce, avoid = torch.tensor(weights).to(DEVICE, non_blocking=True).t()[:, :, None]
        repeated = (repeats(window)[:, 1:] & (avoid > 0)).float()
        loss = torch.stack([kd * (1 - repeated), ce * (1 - repeated), avoid * repeated]).flatten(1)
        teacher = torch.cat(states) if states else None
        return window[:, :-1].contiguous(), window[:, 1:].contiguous(), loss, teacher

    def state(self):
        return {'generator': self.generator.get_state(), 'order': self.order, 'drawn': self.drawn}

    def restore(self, state):
        self.generator.set_state(state['generator'].cpu())
        self.order = {n: order.cpu() for n, order in state['order'].items()}
        self.drawn = state['drawn']


def gather(states: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """states[chosen] on the device; chosen is on the host. From the host's memory the copy goes on beside the step before."""
    if states.device.type == DEVICE:
        return states[chosen.to(DEVICE, non_blocking=True)]
    return states[chosen].pin_memory().to(DEVICE, non_blocking=True)


@torch.no_grad()
def remember(llama, teacher: dict, stream: torch.Tensor, length: int, batch: int, device=DEVICE) -> torch.Tensor:
    """The teacher's final hidden states of every window of a stream: read again each epoch, they save a fifth of the arithmetic.
    device: where they are kept."""
    windows = (len(stream) - 1) // length
    out = torch.empty(windows, length, llama.config.hidden, dtype=COMPUTE, device=device)
    ids = stream[: windows * length].view(windows, length)
    for start in range(0, windows, batch):
        part = ids[start : start + batch].long()
        count = len(part)
        if count < batch:  # compiled for one batch size
            part = torch.cat([part, part[:1].expand(batch - count, length)])
        out[start : start + count] = llama.hidden(teacher, part)[:count]
    return out
