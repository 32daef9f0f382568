"""Perplexity, KL to the dense model and multiple-choice accuracy, as tables of one form for every model of a run."""

import math

import numpy as np
import torch

from generate import Sampler, greedy_answers
from model import COMPUTE, DEVICE, Llama
from prepare import LONGEST_QUESTION, OUTSIDE, TASKS, unragged
from quantize import quantize_params
from repeats import repeats

CHUNK = 8192


@torch.no_grad()
def perplexity(llama, params, ids, window, batch=16, teacher=None, limit=None) -> dict:
    """Windows of `window` tokens, window - 1 predictions each, no BOS. With (llama, params) of a teacher also mean
    KL(teacher || model) in nats per token and the share of equal most likely tokens."""
    count = len(ids) // window
    count = min(count, limit) if limit else count
    rows = torch.from_numpy(ids[: count * window].astype(np.int64)).view(count, window).to(DEVICE)
    head = params['embed'].to(COMPUTE)
    teacher_head = teacher[1]['embed'].to(COMPUTE) if teacher else None
    nll = kl = same = 0.0
    flat = lambda h: h[:, :-1].reshape(-1, h.shape[-1])  # noqa: E731
    for i in range(0, count, batch):
        x = rows[i : i + batch]
        h, y = flat(llama.hidden(params, x)), x[:, 1:].reshape(-1)
        ht = flat(teacher[0].hidden(teacher[1], x)) if teacher else None
        for j in range(0, len(y), CHUNK):
            log_p = (h[j : j + CHUNK] @ head.t()).float().log_softmax(-1)
            nll -= log_p.gather(1, y[j : j + CHUNK, None]).double().sum()
            if teacher:
                log_t = (ht[j : j + CHUNK] @ teacher_head.t()).float().log_softmax(-1)
                kl += (log_t.exp() * (log_t - log_p)).sum().double()
                same += (log_t.argmax(-1) == log_p.argmax(-1)).sum().double()
    total = count * (window - 1)
    result = {'ppl': math.exp(float(nll) / total)}
    if teacher:
        result |= {'kl': float(kl) / total, 'same_top1': float(same) / total}
    return result


def _batches(lengths, budget):
    order = np.argsort(-lengths, kind='stable')
    start = 0
    while start < len(order):
        size = max(1, budget // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


@torch.no_grad()
def log_likelihoods(llama, params, flat, meta, budget=131072) -> np.ndarray:
    """Sum of log-probabilities of each row's continuation."""
    scores, head = np.zeros(len(meta)), params['embed'].to(COMPUTE)
    for chosen in _batches(meta[:, 5], budget):
        rows = meta[chosen]
        ids = np.zeros((len(rows), rows[:, 5].max()), np.int64)
        where_row, where_col, target = [], [], []
        for r, m in enumerate(rows):
            tokens = flat[m[4] : m[4] + m[5]]
            ids[r, : m[5]] = tokens
            span = np.arange(m[6], m[5])
            where_row.append(np.full(len(span), r))
            where_col.append(span - 1)
            target.append(tokens[span].astype(np.int64))
        r, c, y = (torch.from_numpy(np.concatenate(a)).to(DEVICE) for a in (where_row, where_col, target))
        h = llama.hidden(params, torch.from_numpy(ids).to(DEVICE))[r, c]
        sums = torch.zeros(len(rows), device=DEVICE, dtype=torch.float64)
        for j in range(0, len(y), CHUNK):
            log_p = (h[j : j + CHUNK] @ head.t()).float().log_softmax(-1)
            sums.index_add_(0, r[j : j + CHUNK], log_p.gather(1, y[j : j + CHUNK, None])[:, 0].double())
        scores[chosen] = sums.cpu().numpy()
    return scores


@torch.no_grad()
def mmlu(llama, params, arrays, budget=131072) -> list[bool]:
    """Zero-shot; the most likely of ' A' ... ' D'."""
    flat, meta = arrays['mmlu_flat'], arrays['mmlu_meta']
    letters = torch.from_numpy(arrays['mmlu_letters'].astype(np.int64)).to(DEVICE)
    head, right = params['embed'].to(COMPUTE)[letters], np.zeros(len(meta), bool)
    for chosen in _batches(meta[:, 1], budget):
        rows = meta[chosen]
        ids = np.zeros((len(rows), rows[:, 1].max()), np.int64)
        for r, (offset, length, _) in enumerate(rows):
            ids[r, :length] = flat[offset : offset + length]
        h = llama.hidden(params, torch.from_numpy(ids).to(DEVICE))
        last = h[torch.arange(len(rows), device=DEVICE), torch.from_numpy(rows[:, 1].astype(np.int64) - 1).to(DEVICE)]
        right[chosen] = (last @ head.t()).argmax(-1).cpu().numpy() == rows[:, 2]
    return right.tolist()


def choices(llama, params, arrays, limit=None) -> dict:
    """acc and acc_norm (per character of the choice) with standard errors, in percent."""
    flat, meta = arrays['choice_flat'], arrays['choice_meta']
    if limit:
        meta = meta[meta[:, 1] < limit]
    scores, out = log_likelihoods(llama, params, flat, meta), {}

    def entry(hits):
        p = float(np.mean(hits))
        return {'value': 100 * p, 'stderr': 100 * math.sqrt(p * (1 - p) / len(hits)), 'n': len(hits)}

    for number, task in enumerate(TASKS):
        by_item: dict[int, list] = {}
        for m, score in zip(meta[meta[:, 0] == number], scores[meta[:, 0] == number]):
            by_item.setdefault(m[1], []).append((score, score / m[7], m[2] == m[3]))
        if not by_item:
            continue
        acc = [max(rows, key=lambda r: r[0])[2] for rows in by_item.values()]
        norm = [max(rows, key=lambda r: r[1])[2] for rows in by_item.values()]
        out[task] = {'acc': entry(acc)} | ({} if task == 'winogrande' else {'acc_norm': entry(norm)})
    if not limit:
        hits = mmlu(llama, params, arrays)
        out['mmlu'] = {'acc': entry(hits)}
    return out


def loops(config, params, questions: list[list[int]], limit: int, gram: int = 10) -> dict:
    """Share of greedy answers in which some `gram` tokens in a row (about eight words) come three times, in percent."""
    sampler = Sampler(config, params, len(questions), LONGEST_QUESTION + limit, LONGEST_QUESTION)
    answers = [ids for ids in greedy_answers(sampler, questions, limit) if len(ids) > gram]
    found = sum(bool(repeats(torch.tensor([ids], device=DEVICE), gram).any()) for ids in answers)
    p = found / len(questions)
    return {'value': 100 * p, 'stderr': 100 * math.sqrt(p * (1 - p) / len(questions)), 'n': len(questions)}


class Evaluator:
    def __init__(self, config, teacher, arrays, short: bool = False):
        self.config = config
        self.plain, self.integer = Llama(config), Llama(config, activations='i8')
        self.teacher, self.arrays, self.short = teacher, arrays, short

    def kl(self, params, llama) -> dict:
        teacher, window = (self.plain, self.teacher), 128 if self.short else 1024
        limit = 2 if self.short else None
        result = {
            d: perplexity(llama, params, self.arrays[f'kl_{d}'], window, 32, teacher, limit)
            for d in (*OUTSIDE, 'chat', 'textbooks')
        }
        outside = [result[d]['kl'] for d in OUTSIDE]
        return result | {'mean_outside': float(np.mean(outside))}

    def full(self, params, grid: str | None = None, tasks: bool = True) -> dict:
        """Everything of the table, or the text alone; `grid` rounds the weights to 'i8' or 'i4' and activations to i8 first."""
        llama = self.plain
        if grid:
            params, llama = quantize_params(params, grid), self.integer
        window = 256 if self.short else 2048
        limit = 2 if self.short else None
        wikitext = perplexity(llama, params, self.arrays['ppl_wikitext2'], window, 16, limit=limit)
        result = {'wikitext2': wikitext['ppl'], 'kl': self.kl(params, llama)}
        if tasks:
            questions = unragged(self.arrays, 'questions')[:limit]
            result['loops'] = loops(self.config, params, questions, 20 if self.short else 160)
            result['tasks'] = choices(llama, params, self.arrays, limit=limit)
        return result
