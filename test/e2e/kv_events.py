"""A subscriber of KV events as vLLM's own is written: its msgspec structs, rebuilt state, judged by what the server says.

usage: kv_events.py URL

For prompts that share beginnings it predicts from the events alone how many tokens the server will find in its cache,
and compares that with the `cached_tokens` that the server reports; then it begins anew from a replay. The cache is small
enough that blocks are evicted on the way.
"""

import json
import random
import sys
import time
import urllib.request
from typing import Any, Optional, Union

import msgspec
import zmq

BLOCK = 16


class EventBatch(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    ts: float
    events: list[Any]
    data_parallel_rank: Optional[int] = None


class KVCacheEvent(msgspec.Struct, omit_defaults=True, gc=False, tag=True):
    pass


class BlockStored(KVCacheEvent):
    block_hashes: list[Union[bytes, int]]
    parent_block_hash: Optional[Union[bytes, int]]
    token_ids: list[int]
    block_size: int
    lora_id: Optional[int]
    medium: Optional[str]
    lora_name: Optional[str]
    extra_keys: Optional[list[Optional[tuple[Any, ...]]]] = None
    group_idx: Optional[int] = None
    kv_cache_spec_kind: Optional[str] = None
    kv_cache_spec_sliding_window: Optional[int] = None


class BlockRemoved(KVCacheEvent):
    block_hashes: list[Union[bytes, int]]
    medium: Optional[str]
    group_idx: Optional[int] = None


class AllBlocksCleared(KVCacheEvent):
    pass


class KVEventBatch(EventBatch):
    events: list[Union[BlockStored, BlockRemoved, AllBlocksCleared]]


class Cache:
    """What the server holds, as its events tell: the tokens from the start of the sequence to the end of each block."""

    def __init__(self):
        self.prefixes = {}
        self.removed = 0

    def apply(self, batch):
        for event in batch.events:
            if isinstance(event, AllBlocksCleared):
                self.prefixes.clear()
            elif isinstance(event, BlockRemoved):
                for name in event.block_hashes:
                    del self.prefixes[name]
                    self.removed += 1
            else:
                assert event.block_size == BLOCK and event.medium == "GPU"
                assert len(event.token_ids) == BLOCK * len(event.block_hashes)
                parent = event.parent_block_hash
                before = () if parent is None else self.prefixes[parent]
                for i, name in enumerate(event.block_hashes):
                    before += tuple(event.token_ids[i * BLOCK : (i + 1) * BLOCK])
                    assert name not in self.prefixes
                    self.prefixes[name] = before

    def cached(self, tokens):
        held = set(self.prefixes.values())
        blocks = 0
        while (blocks + 1) * BLOCK <= len(tokens) and tuple(tokens[: (blocks + 1) * BLOCK]) in held:
            blocks += 1
        # The last token is always computed: its logits are wanted.
        return min(blocks * BLOCK, len(tokens) - 1)


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def main(url):
    with urllib.request.urlopen(f"{url}/kv_event_sources") as response:
        (source,) = json.load(response).values()
    context = zmq.Context()
    live = context.socket(zmq.SUB)
    live.connect(source["endpoint"])
    live.subscribe(source["topic"])
    decoder = msgspec.msgpack.Decoder(KVEventBatch)
    cache, expected = Cache(), 0

    def replay(start):
        """Batches from `start` on that the server kept."""
        dealer = context.socket(zmq.DEALER)
        dealer.connect(source["replay_endpoint"])
        dealer.send_multipart([b"", start.to_bytes(8, "big")])
        batches = []
        while True:
            assert dealer.poll(5000), "no answer to a request for replay"
            _, topic, sequence, payload = dealer.recv_multipart()
            if sequence == (-1).to_bytes(8, "big", signed=True):
                dealer.close()
                return batches
            assert topic == source["topic"].encode()
            batches.append((int.from_bytes(sequence, "big"), decoder.decode(payload)))

    def settle():
        """Applies all that has been published; what was missed before the socket stood is replayed."""
        nonlocal expected
        while live.poll(150):
            _, sequence, payload = live.recv_multipart()
            sequence = int.from_bytes(sequence, "big")
            if sequence > expected:
                for missed, batch in replay(expected):
                    if missed < sequence:
                        assert missed == expected
                        cache.apply(batch)
                        expected += 1
            if sequence == expected:
                cache.apply(decoder.decode(payload))
                expected += 1

    draw = random.Random(1)
    words = "the of and to in is was for on that with as by at from his her it an were are which this".split()
    text = lambda n: " ".join(draw.choice(words) for _ in range(n))
    trunks = [text(60) for _ in range(6)]
    model = json.load(urllib.request.urlopen(f"{url}/v1/models"))["data"][0]["id"]
    hits = 0
    time.sleep(0.3)
    for round in range(40):
        trunk = " ".join(draw.choice(trunks).split()[: draw.choice([20, 40, 60])])
        prompt = trunk + " " + text(draw.choice([0, 5, 30]))
        settle()
        tokens = post(f"{url}/tokenize", {"model": model, "prompt": prompt})["tokens"]
        predicted = cache.cached(tokens)
        usage = post(f"{url}/v1/completions", {"model": model, "prompt": prompt, "max_tokens": 4, "temperature": 0})["usage"]
        reported = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        assert predicted == reported, (round, predicted, reported)
        hits += reported
    settle()
    assert hits > 0 and cache.removed > 0, "the prompts neither shared beginnings nor filled the cache"
    anew = Cache()
    for _, batch in replay(0):
        anew.apply(batch)
    assert anew.prefixes == cache.prefixes
    print(f"ok {expected} batches, {hits} tokens found, {cache.removed} blocks removed")


main(sys.argv[1])
