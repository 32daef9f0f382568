"""The tasks that the models are fine-tuned for: their training text, their prompts, and how answers are judged.

python tasks.py prepare BUNDLE OUT.npz --tokenizer tokenizer.json
python tasks.py score FOLDER BUNDLE --tokenizer tokenizer.json     (FOLDER: answers-TASK-MODEL.npz as finetune.py leaves them)
"""

import argparse
import gzip
import json
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from corpus import is_permissive, read_jsonl_zst, render_chat
from prepare import ragged, unragged

SUMMARIES = re.compile(
    r'T0:(samsum_(?!Write)|xsum_|cnn_dailymail_3_0_0_(?!generate|spice)|multi_news_(?!expand)|gigaword_(?!reverse|write_an))'
)
MBPP_TRAIN = range(601, 975)  # task ids; 11-510 are the test
MBPP_TEST = range(11, 511)


def read_jsonl(path: Path) -> list[dict]:
    opened = gzip.open(path, 'rt') if path.suffix == '.gz' else open(path, encoding='utf8')
    return [json.loads(line) for line in opened]


def gsm8k_answer(row: dict) -> str:
    return re.sub(r'<<.*?>>', '', row['answer'])


def mbpp_question(row: dict) -> str:
    return f'{row["text"]}\nYour code should pass these tests:\n' + '\n'.join(row['test_list'])


def dialogue_question(row: dict) -> str:
    return f'{row["dialogue"]}\n\nSummarize this dialogue:'


def ask(question: str) -> str:
    return render_chat([{'role': 'user', 'content': question}]) + '<|im_start|>assistant\n'


def answered(question: str, answer: str) -> str:
    return render_chat([{'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}])


def prompts(bundle: Path) -> dict[str, list[str]]:
    folder = bundle / 'eval'
    mbpp = {row['task_id']: row for row in read_jsonl(folder / 'mbpp.jsonl')}
    return {
        'gsm8k': [ask(row['question']) for row in read_jsonl(folder / 'gsm8k_test.jsonl')],
        'dialogsum': [ask(dialogue_question(row)) for row in read_jsonl(folder / 'dialogsum_test.jsonl')],
        'ifeval': [ask(row['prompt']) for row in read_jsonl(folder / 'ifeval.jsonl')],
        'mbpp': [ask(mbpp_question(mbpp[i])) for i in MBPP_TEST if i in mbpp],
        'humaneval': [row['prompt'] for row in read_jsonl(folder / 'HumanEval.jsonl.gz')],
    }


def prepare(bundle: Path, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """train_TASK and held_TASK: uint16 ids; prompts_NAME: ragged ids."""
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    stream = lambda texts: np.array(encode(''.join(texts)), np.uint16)  # noqa: E731
    train, held = {}, {}
    gsm = lambda split: [  # noqa: E731
        answered(row['question'], gsm8k_answer(row)) for row in read_jsonl(bundle / f'eval/gsm8k_{split}.jsonl')
    ]
    train['gsm8k'], held['gsm8k'] = stream(gsm('train')), stream(gsm('test'))
    rows = {'train': ([], []), 'val': ([], [])}
    for split, (summaries, chats) in rows.items():
        for doc in read_jsonl_zst(bundle / split / 'instruct.jsonl.zst'):
            if not is_permissive('instruct', doc['src']) or not doc.get('messages'):
                continue
            text = render_chat(doc['messages'])
            if SUMMARIES.match(doc['src']):
                summaries.append(text[:6000])
            elif len(text) < 6000:
                chats.append(text)
    train['summaries'], train['chat'] = stream(rows['train'][0]), stream(rows['train'][1][::3])
    held['summaries'], held['chat'] = stream(rows['val'][0])[:131072], stream(rows['val'][1])[:131072]
    mbpp = [row for row in read_jsonl(bundle / 'eval/mbpp.jsonl') if row['task_id'] in MBPP_TRAIN]
    tasks = [answered(mbpp_question(row), f'```python\n{row["code"].strip()}\n```').replace('\r', '') for row in mbpp]
    code = {
        split: [
            '<|endoftext|>' + doc['text'][:8000]
            for doc in read_jsonl_zst(bundle / split / 'python_code.jsonl.zst')
            if is_permissive('python_code', doc['src'])
        ]
        for split in ('train', 'val')
    }
    train['code'], train['mbpp'], held['code'] = (
        stream(code['train'][:1200]), stream(tasks), stream(code['val'])[:131072],
    )  # fmt: skip
    out = {f'train_{k}': v for k, v in train.items()} | {f'held_{k}': v for k, v in held.items()}
    for name, texts in prompts(bundle).items():
        out |= ragged(f'prompts_{name}', [encode(text) for text in texts])
    return out


# ---- judging


def last_number(text: str) -> str | None:
    marked = re.search(r'####\s*(-?[\d,.]+)', text)
    found = [marked.group(1)] if marked else re.findall(r'-?\d[\d,]*(?:\.\d+)?', text)
    return found[-1].replace(',', '').rstrip('.') if found else None


def same_number(a: str | None, b: str | None) -> bool:
    try:
        return abs(float(a) - float(b)) < 1e-6
    except (TypeError, ValueError):
        return False


def lcs(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def rouge(candidate: str, reference: str) -> dict[str, float]:
    """F1 of ROUGE-1, -2 and -L over lower-cased words and digits, no stemming."""
    c, r = (re.findall(r'[a-z0-9]+', text.lower()) for text in (candidate, reference))

    def f1(hits, n_c, n_r):
        return 0.0 if hits == 0 else 2 * hits / (n_c + n_r)

    out = {'rougeL': f1(lcs(c, r), len(c), len(r))}
    for n in (1, 2):
        grams = lambda words: [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]  # noqa: B023, E731
        gc, gr = grams(c), grams(r)
        hits = sum(min(gc.count(g), gr.count(g)) for g in set(gc))
        out[f'rouge{n}'] = f1(hits, len(gc), len(gr))
    return out


def python_of(text: str) -> str:
    block = re.search(r'```(?:python)?\n(.*?)(?:```|$)', text, re.S)
    return block.group(1) if block else text


def runs(program: str) -> bool:
    """Whether a program ends well within 5 s; in a process of its own, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, '-I', '-c', program], cwd=folder, timeout=5, capture_output=True, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def _mean(values) -> dict[str, float]:
    values = [float(v) for v in values]
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values) / len(values))
    return {'value': 100 * mean, 'stderr': 100 * spread, 'n': len(values)}


def judge(name: str, bundle: Path, answers: list[str]) -> dict:
    folder = bundle / 'eval'
    if name == 'gsm8k':
        gold = [row['answer'] for row in read_jsonl(folder / 'gsm8k_test.jsonl')]
        return {'exact': _mean(same_number(last_number(a), last_number(g)) for a, g in zip(answers, gold))}
    if name == 'dialogsum':
        rows = read_jsonl(folder / 'dialogsum_test.jsonl')
        scores = []
        for answer, row in zip(answers, rows):
            references = [v for k, v in row.items() if k.startswith('summary')]
            each = [rouge(answer, reference) for reference in references]
            scores.append({k: sum(e[k] for e in each) / len(each) for k in each[0]})
        return {k: _mean(s[k] for s in scores) for k in ('rouge1', 'rouge2', 'rougeL')}
    if name == 'mbpp':
        rows = {row['task_id']: row for row in read_jsonl(folder / 'mbpp.jsonl')}
        rows = [rows[i] for i in MBPP_TEST if i in rows]
        setup = lambda row: row.get('test_setup_code', '')  # noqa: E731
        programs = [
            '\n'.join([setup(r), python_of(a), *r['test_list']]).replace('\r', '') for a, r in zip(answers, rows)
        ]
        return {'pass@1': _mean(runs(p) for p in programs)}
    if name == 'humaneval':
        rows = read_jsonl(folder / 'HumanEval.jsonl.gz')
        stop = re.compile(r'\n(?=(?:def|class|if|print|#|@|```)\b|<)')
        programs = [
            f'{r["prompt"]}{stop.split(a)[0]}\n{r["test"]}\ncheck({r["entry_point"]})' for a, r in zip(answers, rows)
        ]
        return {'pass@1': _mean(runs(p) for p in programs)}
    raise ValueError(f'no judge for {name!r}')


def score(folder: Path, bundle: Path, tokenizer: Tokenizer) -> None:
    for path in sorted(folder.glob('answers-*.npz')):
        _, name, model = path.stem.split('-', 2)
        answers = [tokenizer.decode(ids) for ids in unragged(np.load(path), 'answers')]
        if name == 'ifeval':  # judged by ifeval.mjs
            path.with_suffix('.json').write_text(json.dumps(answers))
            continue
        print(json.dumps({'task': name, 'model': model, **judge(name, bundle, answers)}), flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest='command', required=True)
    for command, first, second in (('prepare', 'bundle', 'out'), ('score', 'folder', 'bundle')):
        p = sub.add_parser(command)
        p.add_argument(first, type=Path)
        p.add_argument(second, type=Path)
        p.add_argument('--tokenizer', type=Path, required=True)
    args = parser.parse_args()
    tok = Tokenizer.from_file(str(args.tokenizer))
    if args.command == 'prepare':
        arrays = prepare(args.bundle, tok)
        np.savez_compressed(args.out, **arrays)
        print({name: len(array) for name, array in arrays.items()})
    else:
        score(args.folder, args.bundle, tok)
