"""A decode loop of Llama-2-7B's shape in PyTorch and one CUDA graph: the baseline that no weak one is taken for.

Random bf16 weights, a static key-value cache, `F.linear`, `F.rms_norm`, `scaled_dot_product_attention` over all of the cache,
greedy choice on the device. Milliseconds of a step, median of three runs of 50 replays.

    python3 bench/torch_decode.py [--layers 32] [--context 576] [--batch 1,16] [--vocabulary 49152]
"""

import argparse
import statistics

import torch
import torch.nn.functional as F

HIDDEN, INNER, HEADS, DIM = 4096, 11008, 32, 128


def weight(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16) * 0.02


class Layer:
    def __init__(self) -> None:
        self.norms = torch.ones(2, HIDDEN, device="cuda", dtype=torch.bfloat16)
        self.qkv, self.output = weight(3 * HIDDEN, HIDDEN), weight(HIDDEN, HIDDEN)
        self.gate_up, self.down = weight(2 * INNER, HIDDEN), weight(HIDDEN, INNER)


class Decoder:
    """One token a sequence at position `context - 1`; the cache before it holds noise."""

    def __init__(self, layers: list[Layer], vocabulary: int, batch: int, context: int) -> None:
        self.layers = layers
        self.head, self.table = weight(vocabulary, HIDDEN), weight(vocabulary, HIDDEN)
        shape = (len(layers), 2, batch, HEADS, context, DIM)
        self.cache = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
        self.tokens = torch.zeros(batch, device="cuda", dtype=torch.long)
        self.position = torch.tensor([context - 1], device="cuda")
        angles = (context - 1) * 10000.0 ** (-torch.arange(0, DIM, 2, device="cuda") / DIM)
        self.cosine = torch.cat([angles.cos()] * 2).to(torch.bfloat16)
        self.sine = torch.cat([-angles.sin(), angles.sin()]).to(torch.bfloat16)

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.cosine + torch.roll(x, DIM // 2, -1) * self.sine

    def step(self) -> None:
        batch = self.tokens.shape[0]
        h = F.embedding(self.tokens, self.table)
        for layer, (keys, values) in zip(self.layers, self.cache):
            x = F.rms_norm(h, (HIDDEN,), layer.norms[0], 1e-5)
            q, k, v = F.linear(x, layer.qkv).view(batch, 3, HEADS, 1, DIM).unbind(1)
            keys.index_copy_(2, self.position, self.rotate(k))
            values.index_copy_(2, self.position, v)
            attended = F.scaled_dot_product_attention(self.rotate(q), keys, values)
            h = h + F.linear(attended.reshape(batch, HIDDEN), layer.output)
            x = F.rms_norm(h, (HIDDEN,), layer.norms[1], 1e-5)
            gate, up = F.linear(x, layer.gate_up).chunk(2, -1)
            h = h + F.linear(F.silu(gate) * up, layer.down)
        x = F.rms_norm(h, (HIDDEN,), layer.norms[0], 1e-5)
        self.tokens.copy_(F.linear(x, self.head).argmax(-1))


def measure(decoder: Decoder) -> float:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            decoder.step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        decoder.step()
    times = []
    for _ in range(4):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(50):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 50)
    return statistics.median(times[1:])


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--layers", type=int, default=32)
    options.add_argument("--context", type=int, default=576)
    options.add_argument("--batch", default="1,16")
    options.add_argument("--vocabulary", type=int, default=49152)
    given = options.parse_args()
    print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}")
    with torch.inference_mode():
        layers = [Layer() for _ in range(given.layers)]
        for batch in map(int, given.batch.split(",")):
            step = measure(Decoder(layers, given.vocabulary, batch, given.context))
            print(f"{batch} sequences, context {given.context}: {step:.2f} ms a step")


if __name__ == "__main__":
    main()
