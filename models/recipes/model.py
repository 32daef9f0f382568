"""A Llama as plain functions over a dictionary of tensors: all that pruning, training and evaluation share.

    {'embed': [vocab, hidden], 'norm': [hidden], 'layers': [{'attn_norm', 'qkv', 'out', 'mlp_norm', 'gate_up', 'down'}]}

q, k and v are one matrix, gate and up are one matrix (rows stacked), the head is tied to the embedding. Master weights
are float32; the residual stream and every product are COMPUTE (bfloat16 on a GPU).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from gguf import read_gguf, unpermute
from quantize import ste_activations

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
COMPUTE = torch.bfloat16 if DEVICE == 'cuda' else torch.float32

MATRICES = ('qkv', 'out', 'gate_up', 'down')
LAYER_KEYS = ('attn_norm', 'qkv', 'out', 'mlp_norm', 'gate_up', 'down')


@dataclass(frozen=True)
class Config:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    eps: float
    theta: float
    head_dim: int = 64
    max_positions: int = 8192

    def row_groups(self, matrix: str) -> dict[str, tuple[int, int]]:
        """The rows of a stacked matrix that belong to each checkpoint matrix."""
        q, kv, ff = self.heads * self.head_dim, self.kv_heads * self.head_dim, self.intermediate
        return {
            'qkv': {'q': (0, q), 'k': (q, q + kv), 'v': (q + kv, q + 2 * kv)},
            'out': {'o': (0, self.hidden)},
            'gate_up': {'gate': (0, ff), 'up': (ff, 2 * ff)},
            'down': {'down': (0, self.hidden)},
        }[matrix]


def load_gguf(path, layers: int | None = None) -> tuple[Config, dict]:
    """Reads a Llama GGUF (tied head). `layers` keeps only the first ones, for dry runs."""
    meta, tensors = read_gguf(path)
    get = lambda key: meta[f'llama.{key}']  # noqa: E731
    config = Config(
        hidden=get('embedding_length'),
        intermediate=get('feed_forward_length'),
        layers=layers or get('block_count'),
        heads=get('attention.head_count'),
        kv_heads=get('attention.head_count_kv'),
        vocab=tensors['token_embd.weight'].shape[0],
        eps=round(get('attention.layer_norm_rms_epsilon'), 9),
        theta=float(get('rope.freq_base')),
    )

    def layer(i):
        w = lambda name: tensors[f'blk.{i}.{name}.weight']  # noqa: E731
        q, k = unpermute(w('attn_q'), config.heads), unpermute(w('attn_k'), config.kv_heads)
        return {
            'attn_norm': w('attn_norm'),
            'qkv': np.concatenate([q, k, w('attn_v')]),
            'out': w('attn_output'),
            'mlp_norm': w('ffn_norm'),
            'gate_up': np.concatenate([w('ffn_gate'), w('ffn_up')]),
            'down': w('ffn_down'),
        }

    params = {
        'embed': tensors['token_embd.weight'],
        'norm': tensors['output_norm.weight'],
        'layers': [layer(i) for i in range(config.layers)],
    }
    return config, tree_map(lambda a: torch.from_numpy(np.ascontiguousarray(a)).float().to(DEVICE), params)


def tree_map(fn, params: dict) -> dict:
    return {
        'embed': fn(params['embed']),
        'norm': fn(params['norm']),
        'layers': [{k: fn(layer[k]) for k in LAYER_KEYS} for layer in params['layers']],
    }


def tensors_of(params: dict) -> list[torch.Tensor]:
    return [params['embed'], params['norm']] + [layer[k] for layer in params['layers'] for k in LAYER_KEYS]


def matrices_of(params: dict) -> list[torch.Tensor]:
    """The matrices that are pruned: all but the embedding."""
    return [layer[k] for layer in params['layers'] for k in MATRICES]


def sparsity(params: dict) -> float:
    matrices = matrices_of(params)
    return sum(int((m == 0).sum()) for m in matrices) / sum(m.numel() for m in matrices)


def rms_norm(x, weight, eps):
    y = x.float()
    return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def rotate(x, cos, sin):
    y, half = x.float(), x.shape[-1] // 2
    return (y * cos + torch.cat([-y[..., half:], y[..., :half]], -1) * sin).to(x.dtype)


def rope_tables(config: Config, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin: [length, head_dim] float32, computed in float64."""
    inverse = config.theta ** (-torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), inverse).repeat(1, 2)
    return angles.cos().float().to(DEVICE), angles.sin().float().to(DEVICE)


class Llama:
    """The forward pass. `activations='i8'` rounds every linear input per token, as the integer engine does."""

    def __init__(self, config: Config, activations: str | None = None, compiled: bool = False):
        self.config = config
        self.cos, self.sin = rope_tables(config, config.max_positions)
        quantize_input = ste_activations if activations == 'i8' else (lambda x: x)
        if activations == 'i8' and not compiled and DEVICE == 'cuda':  # a dozen passes over the activations become two
            quantize_input = torch.compile(ste_activations, dynamic=True)

        def linear(x, weight):
            return F.linear(quantize_input(x), weight.to(x.dtype))

        def attention(x, cos, sin, norm, qkv):
            c, (b, t, _) = config, x.shape
            y = linear(rms_norm(x, norm, c.eps), qkv)
            q, k, v = y.split([c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim], -1)
            q = rotate(q.view(b, t, c.heads, c.head_dim).transpose(1, 2), cos, sin)
            k = rotate(k.view(b, t, c.kv_heads, c.head_dim).transpose(1, 2), cos, sin)
            v = v.view(b, t, c.kv_heads, c.head_dim).transpose(1, 2)
            group = c.heads // c.kv_heads
            k, v = (
                z[:, :, None].expand(b, c.kv_heads, group, t, c.head_dim).reshape(b, c.heads, t, c.head_dim)
                for z in (k, v)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return y.transpose(1, 2).reshape(b, t, c.heads * c.head_dim)

        def gated(x, norm, gate_up):
            gate, up = linear(rms_norm(x, norm, config.eps), gate_up).chunk(2, -1)
            return F.silu(gate) * up

        def block(x, cos, sin, attn_norm, qkv, out, mlp_norm, gate_up, down):
            x = x + linear(attention(x, cos, sin, attn_norm, qkv), out)
            return x + linear(gated(x, mlp_norm, gate_up), down)

        self.attention, self.gated, self.linear = attention, gated, linear
        self.block = torch.compile(block, dynamic=False) if compiled else block
        self.final_norm = rms_norm

    def embed(self, params, ids):
        return F.embedding(ids, params['embed']).to(COMPUTE)

    def hidden(self, params, ids, features: list | None = None) -> torch.Tensor:
        """Final normed hidden states [batch, time, hidden]; appends each layer's output to `features` if given."""
        x, t = self.embed(params, ids), ids.shape[1]
        cos, sin = self.cos[:t], self.sin[:t]
        for layer in params['layers']:
            x = self.block(x, cos, sin, *[layer[k] for k in LAYER_KEYS])
            if features is not None:
                features.append(x)
        return self.final_norm(x, params['norm'], self.config.eps)
