"""SparseGPT (Frantar & Alistarh, arXiv 2301.00774) on a GPU, true-sequential: each matrix sees the calibration text
as changed by those before it. The numbers are those of an ordinary implementation; what is batched is the calibration
text, and the column loop of a block, whose hundreds of small kernels are recorded once as a CUDA graph.
"""

import torch

import parallel
from model import DEVICE, rms_norm, tree_map


def allocate(config, target: float, offsets: dict[str, float], edges: dict[int, float]) -> dict:
    """Sparsity per (layer, checkpoint matrix) with the given mean over weights.

    `offsets` shifts a kind of matrix ('k', 'v', 'o', ...), `edges` a layer (negative counts from the end); the common
    remainder is found by bisection so that the mean stays `target`.
    """
    shift, size = {}, {}
    for layer in range(config.layers):
        for matrix in ('qkv', 'out', 'gate_up', 'down'):
            columns = config.intermediate if matrix == 'down' else config.hidden
            for kind, (first, last) in config.row_groups(matrix).items():
                edge = edges.get(layer, edges.get(layer - config.layers, 0.0))
                shift[layer, kind] = offsets.get(kind, 0.0) + edge
                size[layer, kind] = (last - first) * columns
    low, high = -1.0, 1.0
    total = sum(size.values())
    at = lambda x: {key: min(0.99, max(0.0, target + x + s)) for key, s in shift.items()}  # noqa: E731
    for _ in range(50):
        middle = (low + high) / 2
        mean = sum(v * size[k] for k, v in at(middle).items()) / total
        low, high = (middle, high) if mean < target else (low, middle)
    return at(low)


class Solver:
    """Prunes one matrix at a time; keeps the recorded graphs of the column loop by shape."""

    def __init__(self, block: int = 128, damping: float = 0.01):
        self.block, self.damping, self.graphs = block, damping, {}

    @staticmethod
    def _columns(weight, factor, remove, pruned, error):
        for i in range(weight.shape[1]):
            column = weight[:, i]
            kept = torch.where(remove[:, i], torch.zeros_like(column), column)
            err = (column - kept) / factor[i, i]
            pruned[:, i] = kept
            error[:, i] = err
            weight[:, i:] -= err[:, None] * factor[i, i:][None]

    def _run_columns(self, weight, factor, remove):
        buffers = [weight, factor, remove, torch.empty_like(weight), torch.empty_like(weight)]
        if DEVICE != 'cuda':
            self._columns(*buffers)
            return buffers[3], buffers[4]
        key = tuple(weight.shape)
        if key not in self.graphs:
            static = [b.clone() for b in buffers]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._columns(*static)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode='thread_local'):
                self._columns(*static)
            self.graphs[key] = graph, static
        graph, static = self.graphs[key]
        for target, source in zip(static[:3], buffers[:3]):
            target.copy_(source)
        graph.replay()
        return static[3].clone(), static[4].clone()

    def prune(self, weight, hessian, groups: list[tuple[int, int, float]]) -> torch.Tensor:
        """weight [rows, n], hessian XᵀX [n, n], groups (first row, last row, sparsity) -> pruned and corrected weight.

        Within a group and a block of columns the weights of least w² / [U]ᵢᵢ² go, U the upper Cholesky factor of H⁻¹, before
        them those that are zero already: corrections would bring them back.
        """
        gone = weight == 0
        weight, hessian, n = weight.detach().float().clone(), hessian.clone(), weight.shape[1]
        index = torch.arange(n, device=weight.device)
        dead = hessian.diagonal() == 0
        hessian[index[dead], index[dead]] = 1
        weight[:, dead] = 0
        hessian[index, index] += self.damping * hessian.diagonal().mean()
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        upper = torch.linalg.cholesky(inverse, upper=True)
        for start in range(0, n, self.block):
            end = min(start + self.block, n)
            columns, factor = weight[:, start:end].clone(), upper[start:end, start:end].contiguous()
            score = columns**2 / factor.diagonal()[None] ** 2
            score[gone[:, start:end]] = -1
            remove = torch.zeros_like(score, dtype=torch.bool)
            for first, last, share in groups:
                count = int(score[first:last].numel() * share)
                if count:
                    threshold = score[first:last].flatten().sort()[0][count - 1]
                    remove[first:last] = score[first:last] <= threshold
            remove |= gone[:, start:end]
            pruned, error = self._run_columns(columns, factor, remove)
            weight[:, start:end] = pruned
            weight[:, end:] -= error @ upper[start:end, end:]
        return weight


@torch.no_grad()
def sparsegpt(llama, params: dict, calibration: torch.Tensor, shares: dict, batch: int = 32, together=False) -> dict:
    """calibration [windows, length] ids; shares from `allocate`. Returns new float32 parameters.

    together: every process holds a part of the calibration text, and the sums of all give the one result.
    """
    config, solver = llama.config, Solver()
    result = tree_map(lambda t: t.detach().clone(), params)
    windows, length = calibration.shape
    cos, sin = llama.cos[:length], llama.sin[:length]
    x = torch.cat([llama.embed(result, calibration[i : i + batch]) for i in range(0, windows, batch)])
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('highest')

    def hessian(inputs):
        total = None
        for i in range(0, windows, batch):
            rows = inputs(x[i : i + batch]).flatten(0, 1).float()
            total = rows.t() @ rows if total is None else total + rows.t() @ rows
        total *= 2.0 / (windows * length)
        return parallel.sum_over_ranks(total) / parallel.WORLD if together else total

    for number, layer in enumerate(result['layers']):
        def prune(matrix, inputs):
            groups = [(a, b, shares[number, kind]) for kind, (a, b) in config.row_groups(matrix).items()]
            layer[matrix] = solver.prune(layer[matrix], hessian(inputs), groups)
            if together:  # the same sums gave every process the same weights; this makes it certain
                parallel.from_first(layer[matrix])

        attention = lambda y: llama.attention(y, cos, sin, layer['attn_norm'], layer['qkv'])  # noqa: E731
        gated = lambda y: llama.gated(y, layer['mlp_norm'], layer['gate_up'])  # noqa: E731
        prune('qkv', lambda y: rms_norm(y, layer['attn_norm'], config.eps))
        prune('out', attention)
        for i in range(0, windows, batch):
            x[i : i + batch] += llama.linear(attention(x[i : i + batch]), layer['out'])
        prune('gate_up', lambda y: rms_norm(y, layer['mlp_norm'], config.eps))
        prune('down', gated)
        for i in range(0, windows, batch):
            x[i : i + batch] += llama.linear(gated(x[i : i + batch]), layer['down'])
    torch.set_float32_matmul_precision(precision)
    return result
