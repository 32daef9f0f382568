"""Text written by the dense model itself: thousands of sequences in lock step, one CUDA graph per KV length.

All sequences start at position 0 and take one token a step; a prompt is a run of forced tokens, so no prefill and no
padding exist. In a chat, the end of a turn forces the header of the next one, so that the model also writes its users'
turns (Magpie, arXiv 2406.08464). With temperature 0 the same loop decodes greedily.
"""

import time

import numpy as np
import torch
import torch.nn.functional as F

import parallel
from model import COMPUTE, DEVICE, rms_norm, rope_tables, rotate, tensors_of, tree_map

END_OF_TURN = 2


class Sampler:
    def __init__(self, config, params, batch: int, length: int, prompt_length: int, headers=None, bucket: int = 128):
        """headers: (ids after a user's turn, ids after an assistant's turn), or None to let sequences run on."""
        c = self.config = config
        self.params = tree_map(lambda t: t.detach().to(COMPUTE), params)
        self.batch, self.length, self.bucket = batch, length, bucket
        cache = (batch, c.kv_heads, length, c.head_dim)
        self.keys = [torch.zeros(cache, dtype=COMPUTE, device=DEVICE) for _ in range(c.layers)]
        self.values = [torch.zeros(cache, dtype=COMPUTE, device=DEVICE) for _ in range(c.layers)]
        self.cos, self.sin = rope_tables(c, length)
        new = lambda *shape, kind=torch.long: torch.zeros(*shape, dtype=kind, device=DEVICE)  # noqa: E731
        self.position = new(1)
        self.tokens = new(batch, length)
        self.prompt = new(batch, prompt_length + 1)
        self.temperature = torch.ones(batch, 1, device=DEVICE)
        self.is_chat = new(batch, kind=torch.bool)
        self.user_speaks = new(batch, kind=torch.bool)
        self.queue = new(batch)  # index into the header tokens still to be forced; 0 is none
        self.slots = torch.arange(length, device=DEVICE)
        user, assistant = headers or ([], [])
        flat = [0] + list(user) + list(assistant)
        following = list(range(1, len(flat) + 1))
        following[0] = 0
        following[len(user)] = 0
        following[-1] = 0
        self.header_tokens = torch.tensor(flat, device=DEVICE)
        self.header_next = torch.tensor(following, device=DEVICE)
        self.after_user, self.after_assistant = 1, 1 + len(user)
        self.turns = headers is not None
        self.graphs = {}
        self.pool = torch.cuda.graph_pool_handle() if DEVICE == 'cuda' else None

    def use(self, params) -> None:
        """Another model's weights, in the place of those that the graphs read."""
        for mine, theirs in zip(tensors_of(self.params), tensors_of(params)):
            mine.copy_(theirs)

    def _step(self, span: int):
        """One token for every sequence, attending to the first `span` cache slots."""
        c, p, b = self.config, self.params, self.batch
        group = c.heads // c.kv_heads
        cos, sin = self.cos[self.position], self.sin[self.position]
        ids = self.tokens.index_select(1, self.position)[:, 0]
        x = F.embedding(ids, p['embed'])
        hide = (self.slots[:span] > self.position)[None, None]
        for i, layer in enumerate(p['layers']):
            y = F.linear(rms_norm(x, layer['attn_norm'], c.eps), layer['qkv'])
            q, k, v = y.split([c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim], -1)
            q = rotate(q.view(b, c.heads, c.head_dim), cos, sin).view(b * c.kv_heads, group, c.head_dim)
            k = rotate(k.view(b, c.kv_heads, 1, c.head_dim), cos, sin)
            self.keys[i].index_copy_(2, self.position, k)
            self.values[i].index_copy_(2, self.position, v.reshape(b, c.kv_heads, 1, c.head_dim))
            keys = self.keys[i].flatten(0, 1)[:, :span]
            values = self.values[i].flatten(0, 1)[:, :span]
            scores = torch.bmm(q, keys.transpose(1, 2)).float() * c.head_dim**-0.5
            weights = scores.masked_fill_(hide, float('-inf')).softmax(-1).to(COMPUTE)
            x = x + F.linear(torch.bmm(weights, values).reshape(b, -1), layer['out'])
            gate, up = F.linear(rms_norm(x, layer['mlp_norm'], c.eps), layer['gate_up']).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer['down'])
        logits = F.linear(rms_norm(x, p['norm'], c.eps), p['embed'])
        self._choose(logits)

    def _choose(self, logits):
        greedy = logits.argmax(-1)
        # argmax of p / Exp(1) is a draw from p; a zero temperature keeps the greedy choice
        scaled = (logits.float() / self.temperature.clamp_min(1e-4)).softmax(-1)
        drawn = scaled.div_(torch.empty_like(scaled).exponential_().clamp_min_(1e-20)).argmax(-1)
        sampled = torch.where(self.temperature[:, 0] > 0, drawn, greedy)
        forced = self.header_tokens[self.queue]
        token = torch.where(self.queue > 0, forced, sampled)
        self.queue.copy_(self.header_next[self.queue])
        following = (self.position + 1).clamp(max=self.prompt.shape[1] - 1)
        prompt = self.prompt.index_select(1, following)[:, 0]
        token = torch.where(prompt >= 0, prompt, token)
        if self.turns:
            ends = self.is_chat & (token == END_OF_TURN) & (prompt < 0)
            start = torch.where(self.user_speaks, self.after_user, self.after_assistant)
            self.queue.copy_(torch.where(ends, start, self.queue))
            self.user_speaks.logical_xor_(ends)
        self.tokens.index_copy_(1, (self.position + 1).clamp(max=self.length - 1), token[:, None])
        self.position.add_(1)

    def _replay(self, span: int):
        if DEVICE != 'cuda':
            return self._step(span)
        if span not in self.graphs:
            state = [t.clone() for t in (self.position, self.tokens, self.queue, self.user_speaks)]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._step(span)
            torch.cuda.current_stream().wait_stream(stream)
            for t, old in zip((self.position, self.tokens, self.queue, self.user_speaks), state):
                t.copy_(old)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode='thread_local'):
                self._step(span)
            self.graphs[span] = graph
        self.graphs[span].replay()

    @torch.no_grad()
    def run(self, prompts: list[list[int]], temperature, user_speaks=None, is_chat=None) -> torch.Tensor:
        """prompts: one id list per sequence; temperature: float or [batch]. Returns ids [batch, length]."""
        host = np.full(tuple(self.prompt.shape), -1, dtype=np.int64)
        for row, ids in enumerate(prompts):
            kept = ids[: host.shape[1] - 1]
            host[row, : len(kept)] = kept
        self.prompt.copy_(torch.from_numpy(host))
        self.tokens.zero_()
        self.tokens[:, 0] = self.prompt[:, 0]
        self.position.zero_()
        self.queue.zero_()
        self.temperature.copy_(torch.as_tensor(temperature, dtype=torch.float32).reshape(-1, 1).expand(self.batch, 1))
        flags = lambda f: torch.as_tensor(np.zeros(self.batch, bool) if f is None else f)  # noqa: E731
        self.user_speaks.copy_(flags(user_speaks))
        self.is_chat.copy_(flags(is_chat))
        for step in range(self.length - 1):
            self._replay(min(self.length, (step // self.bucket + 1) * self.bucket))
        return self.tokens


def self_text(config, params, seeds: dict, spec: dict, log) -> dict[str, np.ndarray]:
    """Web-like text and chats, each so many rounds of a batch; every process writes its own. uint16 [sequences, length] each.

    seeds: ragged id lists 'chat' and 'text' (see prepare.py). A share of the sequences starts from nothing but the
    separator (text) or the user's header (chat): the model then chooses the subject.
    """
    rng, made = np.random.default_rng(spec['seed'] + parallel.RANK), {}
    torch.manual_seed(spec['seed'] + parallel.RANK)
    for kind in ('chat', 'text'):
        size, chat = spec[kind], kind == 'chat'
        if not size['rounds']:
            continue
        batch, length = size['batch'], size['length']
        headers = (seeds['after_user'], seeds['after_assistant']) if chat else None
        pool, bare = seeds[kind], list(seeds['user_header'] if chat else [0])
        sampler = Sampler(config, params, batch, length, spec['prompt'], headers)
        rows = []
        for _ in range(size['rounds']):
            free = rng.random(batch) < spec['free']
            prompts = [bare if f else pool[i] for f, i in zip(free, rng.integers(len(pool), size=batch))]
            heat, before = rng.uniform(*size['temperature'], size=batch), time.time()
            ids = sampler.run(prompts, heat, user_speaks=free if chat else None, is_chat=np.full(batch, chat))
            rows.append(ids.cpu().numpy().astype(np.uint16))
            log(f'self_{kind} {ids.numel() / 1e6:.2f} M tokens, {ids.numel() / (time.time() - before):.0f} tokens/s each')
        made[f'self_{kind}'] = np.concatenate(rows)
        del sampler
        if DEVICE == 'cuda':
            torch.cuda.empty_cache()
    return made


def first_questions(chats: np.ndarray, after_user: list[int], longest: int) -> list[list[int]]:
    """Of chats [n, length], each one's start up to where the assistant first speaks."""
    mark, out = np.array(after_user), []
    if not len(chats):
        return out
    windows = np.lib.stride_tricks.sliding_window_view(chats[:, :longest], len(mark), axis=1)
    hits = (windows == mark).all(2)
    for row, hit in zip(chats, hits):
        if hit.any():
            out.append(row[: int(hit.argmax()) + len(mark)].astype(np.int64).tolist())
    return out


def own_chats(config, student: dict, questions: list[list[int]], seeds: dict, spec: dict, log) -> np.ndarray:
    """Chats as the student itself continues them, so that the teacher can correct it where it goes astray (on-policy
    distillation, arXiv 2306.13649) and its loops can be held against it; a share `greedy` of them without chance. uint16
    [sequences, length]."""
    rng = np.random.default_rng(spec['seed'] + parallel.RANK)
    torch.manual_seed(spec['seed'] + parallel.RANK)
    headers = (seeds['after_user'], seeds['after_assistant'])
    pool = questions or seeds['chat']
    sampler = Sampler(config, student, spec['batch'], spec['length'], spec['prompt'], headers)
    rows = []
    for _ in range(spec['rounds']):
        prompts = [pool[i] for i in rng.integers(len(pool), size=spec['batch'])]
        heat, before = rng.uniform(*spec['temperature'], size=spec['batch']), time.time()
        heat[rng.random(spec['batch']) < spec['greedy']] = 0
        ids = sampler.run(prompts, heat, is_chat=np.full(spec['batch'], True))
        rows.append(ids.cpu().numpy().astype(np.uint16))
        log(f'own_chat {ids.numel() / 1e6:.2f} M tokens, {ids.numel() / (time.time() - before):.0f} tokens/s each')
    del sampler
    if DEVICE == 'cuda':
        torch.cuda.empty_cache()
    return np.concatenate(rows)


def greedy_answers(sampler: Sampler, prompts: list[list[int]], limit: int) -> list[list[int]]:
    """Of at most `limit` tokens, up to the end of the turn."""
    out = []
    for prompt, row in zip(prompts, sampler.run(prompts, 0.0).tolist()):
        reply = row[len(prompt) : len(prompt) + limit]
        out.append(reply[: reply.index(END_OF_TURN)] if END_OF_TURN in reply else reply)
    return out
