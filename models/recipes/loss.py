"""Distillation and cross-entropy over a large vocabulary, and SquareHead."""

import torch


def distill_chunk(h, head, teacher_h, teacher_head, target, kd, ce, scale):
    student = (h @ head.t()).float()
    teacher = (teacher_h @ teacher_head.t()).float()
    log_s = student - torch.logsumexp(student, -1, keepdim=True)
    log_t = teacher - torch.logsumexp(teacher, -1, keepdim=True)
    p_t = log_t.exp()
    one_hot = (torch.arange(head.shape[0], device=h.device)[None] == target[:, None]).float()
    kl = (p_t * (log_t - log_s)).sum(1)
    nll = -(log_s * one_hot).sum(1)
    c = ce[:, None]
    grad = (((kd + c) * log_s.exp() - kd * p_t - c * one_hot) * scale).to(h.dtype)
    return torch.stack([kl.sum(), nll.sum(), (kd * kl + ce * nll).sum()]), grad


class DistillLoss(torch.autograd.Function):
    """kd * KL(teacher || student) + ce * cross-entropy, mean over tokens, without ever holding all logits; ce is per token.

    Gradients of the logits are formed chunk by chunk in the forward pass; the head is tied to the embedding.
    """

    chunk = 8192
    kernel = staticmethod(distill_chunk)

    @staticmethod
    def forward(ctx, h, embed, teacher_h, teacher_head, target, kd, ce):
        count, head = h.shape[0], embed.detach().to(h.dtype)
        grad_h = torch.empty_like(h)
        grad_head = torch.zeros_like(embed, dtype=torch.float32)
        sums = torch.zeros(3, device=h.device)
        raise_by = 4096.0  # keeps bf16 logit gradients in range; divided out below
        kd_t = torch.tensor(float(kd), device=h.device)
        for i in range(0, count, DistillLoss.chunk):
            part = slice(i, i + DistillLoss.chunk)
            s, g = DistillLoss.kernel(
                h[part], head, teacher_h[part], teacher_head, target[part], kd_t, ce[part], raise_by / count
            )
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
        return grad_h * grad.to(grad_h.dtype), grad_head * grad, None, None, None, None, None


def feature_distance(student: list, teacher: list) -> torch.Tensor:
    """SquareHead (arXiv 2310.06927): squared distance of layer outputs over the teacher's squared norm, per token."""
    pairs = zip(student, teacher)
    each = [
        ((s.float() - t.float()).pow(2).sum(-1) / (t.float().pow(2).sum(-1) + 1e-6)).mean() for s, t in pairs
    ]
    return torch.stack(each).mean()
