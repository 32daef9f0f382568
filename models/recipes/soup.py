"""A soup (Wortsman et al., arXiv 2203.05482) of models trained from one dense model: python soup.py OUT MODEL MODEL...

The mean of their weights, zero only where all are zero, as i8 codes in the folder OUT (checkpoint.py). Of two masks of 50 % that
differ the soup is less sparse than either; a stage's `prune` takes it back.
"""

import argparse
from pathlib import Path

import checkpoint


def soup(models: list[dict]) -> dict:
    """Mean of parameters in the form of model.py."""
    mean = lambda key, parts: sum(part[key] for part in parts) / len(parts)  # noqa: E731
    out = {key: mean(key, models) for key in models[0] if key != 'layers'}
    out['layers'] = [{k: mean(k, layers) for k in layers[0]} for layers in zip(*(m['layers'] for m in models))]
    return out


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path)
    parser.add_argument('models', nargs='+', type=Path)
    args = parser.parse_args()
    loaded = [checkpoint.load(folder) for folder in args.models]
    config, params = loaded[0][0], soup([params for _, params in loaded])
    checkpoint.save(args.out, config, params)
    checkpoint.save_codes(args.out / 'model.safetensors', config, params, 'i8')
