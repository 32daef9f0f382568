"""Finding the mask in training, before it is frozen.

Dense weights are kept; each step multiplies them by the mask of the moment. The gradient passes straight through the mask, so a
pruned weight is told what it would be worth, and decays, the more the further the search has come, so that the mask settles
(SR-STE, arXiv 2102.04010; AST, 2407.20584). `freeze` is the pruning: from then on the mask never moves.
"""

import torch

from sparsegpt import allocate


def kth_smallest(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Of each row of non-negative float32 `values` [n, m] the counts[i]-th smallest, [n, 1]; 0 where the count is 0.

    By bisection over the bits, whose order is that of the numbers: a sort of all weights would cost more than a step.
    """
    bits, counts = values.view(torch.int32), counts.to(values.device)
    low, high = torch.zeros_like(counts, dtype=torch.int32), torch.full_like(counts, 0x7F7FFFFF, dtype=torch.int32)
    for _ in range(31):
        middle = low + (high - low) // 2
        enough = (bits <= middle[:, None]).sum(1) >= counts
        low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
    return high.view(torch.float32)[:, None]


class MaskSearch:
    def __init__(self, flat, theta: torch.Tensor, spec: dict):
        """spec: sparsity; until, the share of the run after which the mask is frozen; ramp, that at which the sparsity of `theta`
        has risen to the wanted one, by a cubic curve; every, steps between two masks; decay of pruned weights at the end, times the
        learning rate; score, 'fisher' or 'magnitude'; scope, 'model' (one threshold for all weights) or 'matrix', where
        allocation shifts the shares of some (sparsegpt.allocate)."""
        self.flat, self.spec = flat, spec
        self.mask = flat.mask(theta)
        self.span = slice(flat.embed_end, flat.matrices_end)
        self.score = torch.empty_like(theta[self.span])
        self.before = 1 - self.mask[self.span].float().mean().item()

    def _stacks(self, matrices: torch.Tensor):
        """Views [layers, rows, columns] of a vector over all matrices."""
        at, layers = 0, self.flat.config.layers
        for matrix, (rows, columns) in self.flat.matrix_shapes.items():
            yield matrix, matrices[at : at + layers * rows * columns].view(layers, rows, columns)
            at += layers * rows * columns

    def _parts(self, matrices: torch.Tensor):
        """The same of each checkpoint matrix."""
        for matrix, stack in self._stacks(matrices):
            for kind, (first, last) in self.flat.config.row_groups(matrix).items():
                yield kind, stack[:, first:last]

    def sparsity(self, done: float) -> float:
        """Wanted after this share of the run."""
        left = 1 - min(1.0, done / self.spec['ramp'])
        return self.spec['sparsity'] - (self.spec['sparsity'] - self.before) * left**3

    @torch.no_grad()
    def refresh(self, theta: torch.Tensor, second_moment: torch.Tensor, done: float) -> None:
        """Takes the weights that matter least out of the mask. By 'fisher', what a weight matters is |w| √(r c), r and c the means of
        Adam's second moment over its row and its column: the diagonal Fisher information in its rank-one form. c alone would be
        Wanda's measure (arXiv 2306.11695), the size of the input; r adds how much the output matters."""
        weights, moments = theta[self.span], second_moment[self.span]
        torch.abs(weights, out=self.score)
        if self.spec['score'] == 'fisher':
            for (_, score), (_, v) in zip(self._stacks(self.score), self._stacks(moments)):
                rows, columns = v.mean(2, keepdim=True), v.mean(1, keepdim=True)
                score *= (rows / rows.mean(1, keepdim=True).clamp_min(1e-30)).sqrt() * columns.sqrt()
        target, mask = self.sparsity(done), self.mask[self.span]
        if self.spec['scope'] == 'model':
            limit = kth_smallest(self.score[None], torch.tensor([round(target * self.score.numel())]))
            torch.gt(self.score, limit[0], out=mask)
            return
        given = self.spec.get('allocation', {})
        shares = allocate(self.flat.config, target, given.get('kinds', {}), given.get('layers', {}))
        for (kind, score), (_, rows) in zip(self._parts(self.score), self._parts(mask)):
            counts = [round(shares[layer, kind] * score[layer].numel()) for layer in range(len(score))]
            limit = kth_smallest(score.flatten(1), torch.tensor(counts))
            torch.gt(score, limit[:, :, None], out=rows)

    @torch.no_grad()
    def decay(self, theta: torch.Tensor, lr: float, done: float) -> None:
        """Shrinks pruned weights."""
        shrink = 1 - lr * self.spec['decay'] * min(1.0, done / self.spec['until'])
        theta.mul_(torch.where(self.mask, 1.0, shrink))

    def kept(self) -> dict[str, float]:
        """Share of the weights in the mask, per kind of matrix, and of the first and the last layer."""
        parts = {kind: part.float().mean((1, 2)) for kind, part in self._parts(self.mask[self.span])}
        return {kind: [round(float(v), 3) for v in (p.mean(), p[0], p[-1])] for kind, p in parts.items()}

    @torch.no_grad()
    def freeze(self, *vectors: torch.Tensor) -> None:
        """Zeroes the weights, and the optimizer's moments of them, that are not in the mask."""
        for vector in vectors:
            vector.mul_(self.mask)
