"""Rounding of weights and activations to the engine's integer formats, as values (fake quantization).

i8   one scale per output row, symmetric, codes -127..127, scale = max|w| / 127
i4   one f16 scale per 32 columns of a row, symmetric, codes -8..7, scale = max|w| / 7
     Both map zero to zero, so a mask survives; and both are idempotent: the largest code is always 127 or 7, so a
     packer that applies the same rule to rounded values finds the same scale and the same codes.
Activations: one scale per token, symmetric, codes -127..127. Embedding and tied head: i8 per row.
"""

import torch

GROUP = 32


def round_i8(weight: torch.Tensor) -> torch.Tensor:
    """weight [rows, columns] -> the same shape, on the i8 grid."""
    scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-10) / 127
    return torch.round(weight / scale).clamp_(-127, 127) * scale


def round_i4(weight: torch.Tensor) -> torch.Tensor:
    """weight [rows, columns], columns a multiple of 32 -> the same shape, on the i4 grid."""
    groups = weight.reshape(weight.shape[0], -1, GROUP)
    scale = (groups.abs().amax(2, keepdim=True) / 7).half().float().clamp_min(6e-8)
    return (torch.round(groups / scale).clamp_(-8, 7) * scale).reshape(weight.shape)


def ste_activations(x: torch.Tensor) -> torch.Tensor:
    """Rounds each token's vector to i8 in the forward pass; the gradient passes straight through."""
    y = x.detach().float()
    scale = y.abs().amax(-1, keepdim=True).clamp_min(1e-6) / 127
    rounded = (torch.round(y / scale) * scale).to(x.dtype)
    return x + (rounded - x.detach())


def quantize_params(params: dict, weights: str) -> dict:
    """A copy whose matrices are on the `weights` ('i8' or 'i4') grid and whose embedding is on the i8 grid."""
    from model import MATRICES

    grid = {'i8': round_i8, 'i4': round_i4}[weights]
    layers = [{k: grid(w) if k in MATRICES else w for k, w in layer.items()} for layer in params['layers']]
    return {'embed': round_i8(params['embed']), 'norm': params['norm'], 'layers': layers}
