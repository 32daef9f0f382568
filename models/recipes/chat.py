"""Ten greedy sample chats of several models side by side, unedited, as Markdown.

python chat.py --gguf dense.gguf --tokenizer tokenizer.json name=folder[:i8|:i4] ... > chats.md
"""

import argparse
import sys

import torch
from tokenizers import Tokenizer

import checkpoint
from corpus import render_chat
from generate import END_OF_TURN, Sampler
from model import load_gguf
from quantize import quantize_params

QUESTIONS = [
    'What is the capital of France?',
    'Write a short email to my boss asking for a day off on Friday.',
    'Write a Python function that returns the n-th Fibonacci number.',
    'Tom has 3 apples and buys 4 more. How many apples does he have?',
    'Explain photosynthesis to a ten-year-old.',
    'Give me three tips for sleeping better.',
    'Summarize in one sentence: The city council voted on Tuesday to close the old bridge for repairs. Drivers will '
    'have to use the tunnel for at least six months, and buses will be rerouted.',
    'What is the difference between a virus and a bacterium?',
    'Write a four-line poem about the sea.',
    'I feel nervous before a job interview. What should I do?',
]


def loops(ids: list[int], length: int = 12, times: int = 3) -> bool:
    """Whether some run of `length` tokens occurs at least `times` times."""
    runs = [tuple(ids[i : i + length]) for i in range(len(ids) - length + 1)]
    return any(runs.count(run) >= times for run in set(runs))


def answers(config, params, tokenizer, limit: int) -> list[tuple[str, bool, bool]]:
    """(text, whether it ended by itself, whether it loops) per question."""
    render = lambda q: render_chat([{'role': 'user', 'content': q}]) + '<|im_start|>assistant\n'  # noqa: E731
    prompts = [tokenizer.encode(render(q), add_special_tokens=False).ids for q in QUESTIONS]
    longest = max(map(len, prompts))
    sampler = Sampler(config, params, len(prompts), longest + limit, longest)
    out = []
    for prompt, row in zip(prompts, sampler.run(prompts, 0.0).tolist()):
        reply = row[len(prompt) : len(prompt) + limit]
        ended = END_OF_TURN in reply
        reply = reply[: reply.index(END_OF_TURN)] if ended else reply
        out.append((tokenizer.decode(reply), ended, loops(reply)))
    return out


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--gguf', required=True)
    parser.add_argument('--tokenizer', required=True)
    parser.add_argument('--tokens', type=int, default=160)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('models', nargs='*', metavar='NAME=FOLDER[:GRID]')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tok = Tokenizer.from_file(args.tokenizer)
    columns = {'dense': answers(*load_gguf(args.gguf), tok, args.tokens)}
    print('dense answered', file=sys.stderr, flush=True)
    for entry in args.models:
        name, _, place = entry.partition('=')
        folder, _, grid = place.partition(':')
        config, params = checkpoint.load(folder)
        columns[name] = answers(config, quantize_params(params, grid) if grid else params, tok, args.tokens)
        print(name, 'answered', file=sys.stderr, flush=True)
    for name, rows in columns.items():
        print(f'{name}: {sum(e for _, e, _ in rows)} of 10 end by themselves, {sum(l for *_, l in rows)} loop\n')
    for i, question in enumerate(QUESTIONS):
        print(f'### {question}\n')
        for name, rows in columns.items():
            text, ended, looping = rows[i]
            notes = ('' if ended else f' (cut at {args.tokens} tokens)') + (' (loops)' if looping else '')
            quoted = '\n'.join('> ' + line for line in text.strip().split('\n'))
            print(f'**{name}**{notes}\n\n{quoted}\n')
