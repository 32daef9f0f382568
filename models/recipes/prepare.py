"""Makes the two small arrays a run needs beside its text: eval.npz (perplexity text and multiple-choice items, tokenized)
and seeds.npz (starts for the text the dense model writes itself). Runs once, on any machine, without a GPU."""

import argparse
import bz2
import json
import random
import re
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from corpus import SYSTEM, is_permissive, read_jsonl_zst, render_chat

TASKS = ('hellaswag', 'arc_easy', 'arc_challenge', 'winogrande')
# Text outside the training corpora, on which KL to the dense model is judged; then held-out text of two of them.
OUTSIDE = {'c4': 'c4.utf8', 'wiki': 'wiki.utf8', 'technical': 'technical.utf8', 'code': 'code.utf8'}
DOMAIN_TOKENS = 128 * 1024
LONGEST_QUESTION = 128  # of the questions whose greedy answers are searched for loops, in tokens


def hellaswag_text(text: str) -> str:
    """lm-evaluation-harness's `preprocess`."""
    text = text.strip().replace(' [title]', '. ')
    return re.sub(r'\[.*?\]', '', text).replace('  ', ' ')


def items(eval_dir: Path):
    """Yields (task, item, gold, [(context, continuation), ...])."""
    lines = bz2.open(eval_dir / 'hellaswag_val_full.txt.bz2', 'rt', encoding='utf8').read().split('\n')
    for i in range(len(lines) // 6):
        context, label, *endings = lines[6 * i : 6 * i + 6]
        pairs = [(hellaswag_text(context), ' ' + hellaswag_text(e)) for e in endings]
        yield 'hellaswag', i, int(label), pairs
    for task in ('arc_easy', 'arc_challenge'):
        for i, line in enumerate(open(eval_dir / f'{task}.jsonl', encoding='utf8')):
            row = json.loads(line)
            yield task, i, row['gold'], [(row['query'] + '\nAnswer:', ' ' + c) for c in row['choices']]
    for i, line in enumerate(open(eval_dir / 'winogrande.jsonl', encoding='utf8')):
        row = json.loads(line)
        yield 'winogrande', i, row['gold'], [(c, ' ' + row['continuation']) for c in row['context_options']]


def choice_rows(tokenizer: Tokenizer, eval_dir: Path) -> dict[str, np.ndarray]:
    """flat ids; meta [rows, 8]: task, item, choice, gold, offset, length, context length, characters of the choice."""
    flat, meta = [], []
    encode = lambda t: tokenizer.encode(t, add_special_tokens=False).ids  # noqa: E731
    for task, item, gold, pairs in items(eval_dir):
        for choice, (context, continuation) in enumerate(pairs):
            whole, prefix = encode(context + continuation), len(encode(context))
            meta.append((TASKS.index(task), item, choice, gold, len(flat), len(whole), prefix, len(continuation) - 1))
            flat += whole
    mmlu_flat, mmlu_meta = [], []
    for line in open(eval_dir / 'mmlu_test.jsonl', encoding='utf8'):
        row = json.loads(line)
        head = f'The following are multiple choice questions (with answers) about {row["subject"].replace("_", " ")}.'
        options = ''.join(f'{letter}. {c}\n' for letter, c in zip('ABCD', row['choices']))
        ids = encode(f'{head}\n\n{row["question"].strip()}\n{options}Answer:')[-2048:]
        mmlu_meta.append((len(mmlu_flat), len(ids), row['answer']))
        mmlu_flat += ids
    letters = [encode(' ' + letter) for letter in 'ABCD']
    assert all(len(ids) == 1 for ids in letters)
    return {
        'choice_flat': np.array(flat, np.uint16),
        'choice_meta': np.array(meta, np.int32),
        'mmlu_flat': np.array(mmlu_flat, np.uint16),
        'mmlu_meta': np.array(mmlu_meta, np.int32),
        'mmlu_letters': np.array([ids[0] for ids in letters]),
    }


def evaluation(bundle: Path, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    encode = lambda t: np.array(tokenizer.encode(t, add_special_tokens=False).ids, np.uint16)  # noqa: E731
    out = choice_rows(tokenizer, bundle / 'eval')
    rows = (bundle / 'eval/wikitext2_raw_test.txt').read_text(encoding='utf8').split('\n')
    # SparseGPT's form: the rows of the Hugging Face dataset, each ending in a newline, joined by two more
    rows = ['' if row.strip() == '' else row + '\n' for row in rows[:-1]]
    out['ppl_wikitext2'] = encode('\n\n'.join(rows))
    for name, file in OUTSIDE.items():
        out[f'kl_{name}'] = encode((bundle / 'calib' / file).read_text(encoding='utf8')[:700_000])[:DOMAIN_TOKENS]
    chats, books = [], []
    for doc in read_jsonl_zst(bundle / 'val/instruct.jsonl.zst'):
        if doc.get('messages') and is_permissive('instruct', doc['src']):
            chats.append(render_chat(doc['messages']))
    for doc in read_jsonl_zst(bundle / 'val/openstax_textbooks.jsonl.zst'):
        books.append(doc['text'])
    out['kl_chat'] = encode(''.join(chats)[:700_000])[:DOMAIN_TOKENS]
    out['kl_textbooks'] = encode('<|endoftext|>'.join(books)[:700_000])[:DOMAIN_TOKENS]
    questions = (json.loads(line)['instruction'] for line in open(bundle / 'eval/alpaca_eval_805.jsonl', encoding='utf8'))
    prompts = [encode(render_chat([{'role': 'user', 'content': q}]) + '<|im_start|>assistant\n') for q in questions]
    return out | ragged('questions', [ids for ids in prompts if len(ids) <= LONGEST_QUESTION])


def ragged(name: str, rows: list[list[int]]) -> dict[str, np.ndarray]:
    return {
        f'{name}_flat': np.concatenate([np.array(r, np.uint16) for r in rows]),
        f'{name}_ends': np.cumsum([len(r) for r in rows]).astype(np.int32),
    }


def unragged(arrays, name: str) -> list[list[int]]:
    flat, ends = arrays[f'{name}_flat'].astype(np.int64), arrays[f'{name}_ends']
    return [flat[a:b].tolist() for a, b in zip(np.concatenate([[0], ends[:-1]]), ends)]


def seeds(bundle: Path, tokenizer: Tokenizer, count: int) -> dict[str, np.ndarray]:
    """Chat seeds: permitted users' first turns. Text seeds: 1 to 24 tokens from the start of a permitted document."""
    rng = random.Random(5)
    encode = lambda t: tokenizer.encode(t, add_special_tokens=False).ids  # noqa: E731
    chats, starts = [], []
    for doc in read_jsonl_zst(bundle / 'train/instruct.jsonl.zst'):
        if not is_permissive('instruct', doc['src']):
            continue
        if doc.get('messages') and doc['messages'][0]['role'] == 'user' and rng.random() < 0.5:
            prompt = render_chat(doc['messages'][:1]) + '<|im_start|>assistant\n'
            if len(prompt) < 900:
                chats.append(encode(prompt))
        if len(doc['text']) > 300:
            starts.append(re.sub(r'^(Q:|Question:|Passage:|Article:|Text:)\s*', '', doc['text'][:400]))
    for line in open(bundle / 'calib/c4_demo.jsonl', encoding='utf8'):
        text = json.loads(line)['text']
        starts += [part for part in text.split('\n') if len(part) > 120]
    for shard in ('openstax_textbooks', 'misc_corpora', 'dialogue', 'debian_docs'):
        for doc in read_jsonl_zst(bundle / f'train/{shard}.jsonl.zst'):
            if not is_permissive(shard, doc['src']):
                continue
            paragraphs = [p for p in doc['text'].split('\n\n') if len(p) > 160]
            starts += rng.sample(paragraphs, min(12, len(paragraphs)))
    rng.shuffle(starts)
    rng.shuffle(chats)
    text = [[0] + encode(s[:300])[: rng.randint(1, 24)] for s in starts[:count]]
    header = lambda role: '\n<|im_start|>' + role + '\n'  # noqa: E731
    return {
        **ragged('chat', [c for c in chats if len(c) < 224][:count]),
        **ragged('text', text),
        'user_header': np.array(encode(SYSTEM + '<|im_start|>user\n'), np.int64),
        'after_user': np.array(encode(header('assistant')), np.int64),
        'after_assistant': np.array(encode(header('user')), np.int64),
    }


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bundle', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--tokenizer', type=Path, required=True)
    args = parser.parse_args()
    tok = Tokenizer.from_file(str(args.tokenizer))
    args.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out / 'seeds.npz', **seeds(args.bundle, tok, 24000))
    arrays = evaluation(args.bundle, tok)
    c4 = [json.loads(line)['text'] for line in open(args.bundle / 'calib/c4_demo.jsonl', encoding='utf8')]
    arrays['train_web'] = np.array(tok.encode('<|endoftext|>'.join(c4), add_special_tokens=False).ids, np.uint16)
    np.savez_compressed(args.out / 'eval.npz', **arrays)
    print({name: array.shape for name, array in arrays.items()})
