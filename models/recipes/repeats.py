"""Where a text only repeats itself."""

import torch

CONTROL = 2  # ids up to this one mark documents and turns, which come again and again by right


def repeats(ids: torch.Tensor, gram: int = 8, times: int = 3) -> torch.Tensor:
    """ids [rows, length] -> bool, the same shape: whether the `gram` tokens that end here come at least for the `times`-th time."""
    length = ids.shape[1]
    code, inside = torch.zeros_like(ids), torch.ones_like(ids, dtype=torch.bool)
    for back in range(gram):
        shifted = torch.roll(ids, back, 1)
        code = code * 1_000_003 + shifted + 1  # wraps around: a hash
        inside &= shifted > CONTROL
    inside[:, : gram - 1] = False
    # grams that do not count are all different
    place = torch.arange(length, device=ids.device).expand_as(ids)
    code = torch.where(inside, code, -1 - place)
    ordered, order = code.sort(dim=1, stable=True)
    same = torch.zeros_like(inside)
    if length >= times:
        same[:, times - 1 :] = ordered[:, times - 1 :] == ordered[:, : length - times + 1]
    return torch.zeros_like(inside).scatter_(1, order, same) & inside
