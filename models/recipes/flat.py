"""All parameters of a model in one float32 vector, so that masking, clipping, rounding, the optimizer and the exchange between
GPUs are one operation each instead of one per matrix.

    embed | qkv, out and gate_up of every layer ([.., hidden]) | down of every layer ([.., intermediate]) | norms
"""

import torch

from model import DEVICE, LAYER_KEYS, MATRICES
from quantize import round_i4, round_i8


class Flat:
    def __init__(self, config):
        c = self.config = config
        qkv = (c.heads + 2 * c.kv_heads) * c.head_dim
        shapes = {
            'qkv': (qkv, c.hidden), 'out': (c.hidden, c.heads * c.head_dim), 'gate_up': (2 * c.intermediate, c.hidden),
            'down': (c.hidden, c.intermediate), 'attn_norm': (c.hidden,), 'mlp_norm': (c.hidden,),
        }  # fmt: skip
        if shapes['out'][1] != c.hidden:
            raise ValueError('heads * head_dim must be hidden: rows of one width are rounded together')
        self.matrix_shapes = {key: shapes[key] for key in MATRICES}
        self.places, at = [('embed', None, 0, (c.vocab, c.hidden))], c.vocab * c.hidden
        self.embed_end = at
        for key in (*MATRICES, 'attn_norm', 'mlp_norm'):
            if key == 'down':
                self.down_start = at
            if key == 'attn_norm':
                self.matrices_end = at
            for layer in range(c.layers):
                self.places.append((key, layer, at, shapes[key]))
                at += torch.Size(shapes[key]).numel()
        self.places.append(('norm', None, at, (c.hidden,)))
        self.size = at + c.hidden
        self.round_i8 = round_i8
        self.round_i4 = round_i4

    def compiled(self):
        self.round_i8 = torch.compile(round_i8, dynamic=False)
        self.round_i4 = torch.compile(round_i4, dynamic=False)
        return self

    def tree(self, vector: torch.Tensor) -> dict:
        """Views of `vector` in the form of model.py."""
        params = {'layers': [{} for _ in range(self.config.layers)]}
        for key, layer, at, shape in self.places:
            view = vector[at : at + torch.Size(shape).numel()].view(shape).detach()
            (params if layer is None else params['layers'][layer])[key] = view
        params['layers'] = [{k: layer[k] for k in LAYER_KEYS} for layer in params['layers']]
        return params

    def vector(self, params: dict) -> torch.Tensor:
        out = torch.empty(self.size, device=DEVICE)
        for key, layer, at, shape in self.places:
            value = params[key] if layer is None else params['layers'][layer][key]
            out[at : at + torch.Size(shape).numel()] = value.detach().reshape(-1)
        return out

    def leaves(self, vector: torch.Tensor, gradient: torch.Tensor) -> dict:
        """As `tree`, each tensor a leaf of autograd whose gradient is added up in `gradient`."""
        params = self.tree(vector)
        grads = self.tree(gradient)
        pairs = [(params, grads, k) for k in ('embed', 'norm')]
        pairs += [(p, g, k) for p, g in zip(params['layers'], grads['layers']) for k in LAYER_KEYS]
        for place, grad, key in pairs:
            place[key].requires_grad_(True)
            place[key].grad = grad[key]
        return params

    def mask(self, vector: torch.Tensor) -> torch.Tensor:
        """False where a weight of a matrix is zero."""
        mask = torch.ones(self.size, dtype=torch.bool, device=vector.device)
        span = slice(self.embed_end, self.matrices_end)
        mask[span] = vector[span] != 0
        return mask

    @torch.no_grad()
    def round_into(self, out: torch.Tensor, vector: torch.Tensor, grid: str) -> None:
        """What quantize.quantize_params does, on the vector."""
        hidden, inner = self.config.hidden, self.config.intermediate
        a, b, c = self.embed_end, self.down_start, self.matrices_end
        out[:a] = self.round_i8(vector[:a].view(-1, hidden)).view(-1)
        if grid == 'i4':
            out[a:c] = self.round_i4(vector[a:c].view(-1, hidden)).view(-1)
        else:
            out[a:b] = self.round_i8(vector[a:b].view(-1, hidden)).view(-1)
            out[b:c] = self.round_i8(vector[b:c].view(-1, inner)).view(-1)
        out[c:] = vector[c:]
