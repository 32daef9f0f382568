"""Muon (Jordan 2024) for the pruned matrices, step scaled to AdamW's size as in Moonlight (arXiv 2502.16982)."""

import torch


def orthogonalize(g: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Newton-Schulz iteration: g [n, rows, columns] -> nearest semi-orthogonal matrices, bfloat16."""
    x = g.bfloat16()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon:
    """Matrices of one kind are stacked over the layers, so that one batched product serves them all."""

    def __init__(self, stacks: list[list[tuple[torch.Tensor, int, int]]], momentum: float = 0.95):
        """stacks: lists of (parameter, first row, last row), all of one shape in a list."""
        self.stacks, self.momentum = stacks, momentum
        self.buffers = [torch.zeros(len(s), s[0][2] - s[0][1], s[0][0].shape[1], device=s[0][0].device) for s in stacks]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for stack, buffer in zip(self.stacks, self.buffers):
            grad = torch.stack([p.grad[a:b] for p, a, b in stack])
            buffer.mul_(self.momentum).add_(grad)
            update = orthogonalize(grad.add_(buffer, alpha=self.momentum))
            scale = 0.2 * max(update.shape[1:]) ** 0.5
            for (p, a, b), u in zip(stack, update):
                p[a:b].sub_(u, alpha=lr * scale)

    def state_dict(self):
        return {'buffers': self.buffers}

    def load_state_dict(self, state):
        for mine, saved in zip(self.buffers, state['buffers']):
            mine.copy_(saved)
