"""Rounding of weights and activations to the engine's integer formats, as values (fake quantization).

i8   one scale per output row, symmetric, codes -127..127, scale = max|w| / 127
i4   one f16 scale per 32 columns of a row, codes -8..7: of 15 clipping points, each refined to its least-squares scale, the one of
     least squared error; the weight of largest magnitude takes the negative side, which has one more code
     (native/formats/quantize_rows.cc, the same arithmetic). Both map zero to zero, so a mask survives, and both find the
     same codes again in what they have rounded.
Activations: one scale per token, codes -127..127; a token with outliers (its largest value over 12 times its root mean square)
     is carried as two such vectors, the codes and what they leave over (native/engine/activations.h).
Embedding and tied head: i8 per row.
"""

import torch

GROUP = 32
OUTLIER_RATIO = 12.0


def codes_i8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """weight [rows, columns] -> codes int8 [rows, columns], scale float32 [rows, 1]."""
    scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-10) / 127
    return torch.round(weight / scale).clamp_(-127, 127).to(torch.int8), scale


def codes_i4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """weight [rows, columns], columns a multiple of 32 -> codes int8 [rows, columns], scale float16 [rows, columns / 32]."""
    codes, scale = _search_i4(weight)
    return codes.to(torch.int8).reshape(weight.shape), scale.half().reshape(weight.shape[0], -1)


def round_i8(weight: torch.Tensor) -> torch.Tensor:
    """weight [rows, columns] -> the same shape, on the i8 grid."""
    scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-10) / 127
    return torch.round(weight / scale).clamp_(-127, 127) * scale


def round_i4(weight: torch.Tensor) -> torch.Tensor:
    """weight [rows, columns], columns a multiple of 32 -> the same shape, on the i4 grid."""
    codes, scale = _search_i4(weight)
    return (codes * scale).reshape(weight.shape)


def _search_i4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [groups, 32] and scales [groups, 1], both float32, the scales on f16's grid."""
    x = weight.reshape(-1, GROUP)
    most, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    extreme = torch.where(most >= -least, most, least)
    reciprocal = torch.where(extreme.abs() > 1e-30, -1.0 / extreme, torch.zeros_like(extreme))
    best_gain = torch.zeros_like(extreme)
    best_scale = torch.zeros_like(extreme)
    for step in range(15):
        codes = torch.round(x * (reciprocal * (6.4 + 0.2 * step))).clamp(-8, 7)
        xc, cc = (x * codes).sum(1, keepdim=True), (codes * codes).sum(1, keepdim=True)
        scale = xc / cc.clamp_min(1.0)
        better = xc * scale > best_gain
        best_gain = torch.where(better, xc * scale, best_gain)
        best_scale = torch.where(better, scale, best_scale)
    scale = best_scale.half().float()
    inverse = torch.where(scale != 0, 1.0 / scale, torch.zeros_like(scale))
    return torch.round(x * inverse).clamp(-8, 7), scale


def ste_activations(x: torch.Tensor) -> torch.Tensor:
    """Rounds each token's vector to i8 in the forward pass; the gradient passes straight through."""
    y = x.detach().float()
    absmax = y.abs().amax(-1, keepdim=True)
    scale = absmax.clamp_min(1e-6) / 127
    once = torch.round(y / scale) * scale
    rest = y - once
    rest_scale = rest.abs().amax(-1, keepdim=True).clamp_min(1e-9) / 127
    twice = once + torch.round(rest / rest_scale) * rest_scale
    outliers = absmax * absmax > OUTLIER_RATIO**2 * (y * y).mean(-1, keepdim=True)
    rounded = torch.where(outliers, twice, once).to(x.dtype)
    return x + (rounded - x.detach())


def quantize_params(params: dict, weights: str) -> dict:
    """A copy whose matrices are on the `weights` ('i8' or 'i4') grid and whose embedding is on the i8 grid."""
    from model import MATRICES

    grid = {'i8': round_i8, 'i4': round_i4}[weights]
    layers = [{k: grid(w) if k in MATRICES else w for k, w in layer.items()} for layer in params['layers']]
    return {'embed': round_i8(params['embed']), 'norm': params['norm'], 'layers': layers}
