"""Distillation, cross-entropy and unlikelihood over a large vocabulary."""

import torch


def distill_chunk(h, head, teacher_h, teacher_head, target, kd, ce, avoid, scale):
    student = (h @ head.t()).float()
    teacher = (teacher_h @ teacher_head.t()).float()
    log_s = student - torch.logsumexp(student, -1, keepdim=True)
    log_t = teacher - torch.logsumexp(teacher, -1, keepdim=True)
    p_s, p_t = log_s.exp(), log_t.exp()
    one_hot = (torch.arange(head.shape[0], device=h.device)[None] == target[:, None]).float()
    kl = (p_t * (log_t - log_s)).sum(1)
    nll = -(log_s * one_hot).sum(1)
    p = torch.exp(-nll)
    rest = (1 - p).clamp_min(1e-6)
    up, down = (kd + ce)[:, None], (avoid * p / rest)[:, None]
    grad = (((up - down) * p_s - kd[:, None] * p_t - (ce[:, None] - down) * one_hot) * scale).to(h.dtype)
    loss = kd * kl + ce * nll - avoid * torch.log(rest)
    return torch.stack([kl.sum(), nll.sum(), loss.sum()]), grad


class DistillLoss(torch.autograd.Function):
    """kd * KL(teacher || student) + ce * cross-entropy - avoid * log(1 - p(target)), mean over tokens, without ever holding all
    logits; kd, ce and avoid are per token. The last is unlikelihood (arXiv 1908.04319).

    Gradients of the logits are formed chunk by chunk in the forward pass; the head is tied to the embedding.
    """

    chunk = 8192
    kernel = staticmethod(distill_chunk)

    @staticmethod
    def forward(ctx, h, embed, teacher_h, teacher_head, target, kd, ce, avoid):
        count, head = h.shape[0], embed.detach().to(h.dtype)
        grad_h = torch.empty_like(h)
        grad_head = torch.zeros_like(embed, dtype=torch.float32)
        sums = torch.zeros(3, device=h.device)
        raise_by = 4096.0  # keeps bf16 logit gradients in range; divided out below
        for i in range(0, count, DistillLoss.chunk):
            part = slice(i, i + DistillLoss.chunk)
            s, g = DistillLoss.kernel(
                h[part], head, teacher_h[part], teacher_head, target[part], kd[part], ce[part], avoid[part],
                raise_by / count,
            )  # fmt: skip
            sums = sums + s
            grad_h[part] = (g @ head) / raise_by
            grad_head += g.t() @ h[part]
        ctx.save_for_backward(grad_h, grad_head / raise_by)
        kl, nll, loss = (sums / count).unbind()
        ctx.mark_non_differentiable(kl, nll)
        return loss, kl, nll

    @staticmethod
    def backward(ctx, grad, *_):
        grad_h, grad_head = ctx.saved_tensors
        return grad_h * grad.to(grad_h.dtype), grad_head * grad, None, None, None, None, None, None
