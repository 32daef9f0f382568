"""Hugging Face folders in compressed-tensors' `sparse-bitmask` form (or dense), one safetensors file, f16 values.

`save_codes` writes, and `load` also reads, what `filigree compress` writes: i8 or i4 codes under the bitmask (../FORMAT.md).

Of a sparse matrix NAME the file holds NAME.weight.compressed (nonzeros, row-major), NAME.weight.bitmask
(uint8 [rows, ceil(columns / 8)], least significant bit first), NAME.weight.shape and NAME.weight.row_offsets.
A kept weight that f16 would flush to zero becomes the smallest subnormal, so that a mask never changes on disk.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from model import DEVICE, Config, tree_map
from quantize import codes_i4, codes_i8

TINY = 2.0**-24


def to_half(weight: torch.Tensor) -> torch.Tensor:
    half = weight.half()
    flushed = (half == 0) & (weight != 0)
    return torch.where(flushed, torch.sign(weight).half() * TINY, half)


def as_shipped(params: dict) -> dict:
    """The float32 values of the f16 weights that `save` writes: what an evaluation should judge."""
    return tree_map(lambda t: to_half(t).float(), params)


def named_matrices(config: Config, layers: list[dict]):
    """Yields (checkpoint name, matrix) with the stacked rows taken apart."""
    place = {'q': 'self_attn.q_proj', 'k': 'self_attn.k_proj', 'v': 'self_attn.v_proj', 'o': 'self_attn.o_proj'}
    place |= {'gate': 'mlp.gate_proj', 'up': 'mlp.up_proj', 'down': 'mlp.down_proj'}
    for i, layer in enumerate(layers):
        for matrix in ('qkv', 'out', 'gate_up', 'down'):
            for kind, (first, last) in config.row_groups(matrix).items():
                yield f'model.layers.{i}.{place[kind]}', (i, matrix, first, last), layer[matrix][first:last]


def mask_digest(config: Config, params: dict) -> str:
    """SHA-256 over the bitmasks of all matrices in the order of `named_matrices`: one mask, from pruning to the shipped file."""
    digest = hashlib.sha256()
    for _, _, weight in named_matrices(config, params['layers']):
        digest.update(np.packbits((weight != 0).cpu().numpy(), axis=1, bitorder='little').tobytes())
    return digest.hexdigest()


def save(folder, config: Config, params: dict, sparse: bool = True, tokenizer_from=None) -> None:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    host = lambda t: np.ascontiguousarray(t.cpu().numpy())  # noqa: E731
    tensors = {
        'model.embed_tokens.weight': host(to_half(params['embed'])),
        'model.norm.weight': host(params['norm'].half()),
    }
    zeros = total = 0
    for i, layer in enumerate(params['layers']):
        tensors[f'model.layers.{i}.input_layernorm.weight'] = host(layer['attn_norm'].half())
        tensors[f'model.layers.{i}.post_attention_layernorm.weight'] = host(layer['mlp_norm'].half())
    for name, _, weight in named_matrices(config, params['layers']):
        values = host(to_half(weight))
        mask = values != 0
        zeros, total = zeros + int((~mask).sum()), total + mask.size
        if not sparse:
            tensors[f'{name}.weight'] = values
            continue
        counts = mask.sum(1)
        tensors[f'{name}.weight.compressed'] = values[mask]
        tensors[f'{name}.weight.bitmask'] = np.packbits(mask, axis=1, bitorder='little')
        tensors[f'{name}.weight.shape'] = np.array(values.shape, np.int64)
        tensors[f'{name}.weight.row_offsets'] = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
    (folder / 'config.json').write_text(json.dumps(_config_json(config, zeros / total if sparse else None), indent=2))
    if tokenizer_from:
        for name in ('tokenizer.json', 'chat_template.jinja'):
            shutil.copyfile(Path(tokenizer_from) / name, folder / name)


def save_codes(path, config: Config, params: dict, grid: str) -> None:
    """The matrices on the 'i8' or 'i4' grid of quantize.py, the embedding on the i8 one, as one safetensors file of codes."""
    host = lambda t: np.ascontiguousarray(t.cpu().numpy())  # noqa: E731
    norms = {'model.norm.weight': params['norm']}
    for i, layer in enumerate(params['layers']):
        norms[f'model.layers.{i}.input_layernorm.weight'] = layer['attn_norm']
        norms[f'model.layers.{i}.post_attention_layernorm.weight'] = layer['mlp_norm']
    tensors = {name: host(t.float()) for name, t in norms.items()}
    codes, scale = codes_i8(params['embed'])
    tensors |= {'model.embed_tokens.weight': host(codes), 'model.embed_tokens.weight_scale': host(scale)}
    for name, _, weight in named_matrices(config, params['layers']):
        codes, scale = (codes_i4 if grid == 'i4' else codes_i8)(weight)
        codes = host(codes)
        mask = codes != 0
        counts, stored = mask.sum(1), codes[mask]
        if grid == 'i4':  # two to a byte, every row from a byte of its own
            width = counts + counts % 2
            place = np.arange(len(stored)) + np.repeat(np.cumsum(counts % 2) - counts % 2, counts)
            nibbles = np.zeros(width.sum(), np.uint8)
            nibbles[place] = stored + 8
            stored, counts = nibbles[0::2] | nibbles[1::2] << 4, width
        tensors[f'{name}.compressed'] = stored
        tensors[f'{name}.bitmask'] = np.packbits(mask, axis=1, bitorder='little')
        tensors[f'{name}.shape'] = np.array(codes.shape, np.int64)
        tensors[f'{name}.row_offsets'] = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        tensors[f'{name}.weight_scale'] = host(scale)
    save_file(tensors, path, metadata={'format': 'pt'})


def _config_json(config: Config, share: float | None) -> dict:
    out = {
        'architectures': ['LlamaForCausalLM'],
        'model_type': 'llama',
        'hidden_size': config.hidden,
        'intermediate_size': config.intermediate,
        'num_hidden_layers': config.layers,
        'num_attention_heads': config.heads,
        'num_key_value_heads': config.kv_heads,
        'head_dim': config.head_dim,
        'vocab_size': config.vocab,
        'rms_norm_eps': config.eps,
        'rope_theta': config.theta,
        'max_position_embeddings': config.max_positions,
        'tie_word_embeddings': True,
        'hidden_act': 'silu',
        'bos_token_id': 1,
        'eos_token_id': 2,
        'pad_token_id': 2,
        'attention_bias': False,
        'mlp_bias': False,
        'dtype': 'float16',
        'torch_dtype': 'float16',
    }
    if share is not None:
        out['quantization_config'] = {
            'quant_method': 'compressed-tensors',
            'format': 'dense',
            'sparsity_config': {
                'format': 'sparse-bitmask',
                'global_sparsity': share,
                'registry_requires_subclass': False,
                'sparsity_structure': 'unstructured',
                'targets': ['Linear'],
                'ignore': ['lm_head'],
            },
        }
    return out


def load(folder) -> tuple[Config, dict]:
    """Reads what `save` wrote (sparse or dense); float32 tensors on the device."""
    folder = Path(folder)
    raw = json.loads((folder / 'config.json').read_text())
    config = Config(
        hidden=raw['hidden_size'],
        intermediate=raw['intermediate_size'],
        layers=raw['num_hidden_layers'],
        heads=raw['num_attention_heads'],
        kv_heads=raw['num_key_value_heads'],
        vocab=raw['vocab_size'],
        eps=raw['rms_norm_eps'],
        theta=raw['rope_theta'],
        head_dim=raw['head_dim'],
        max_positions=raw['max_position_embeddings'],
    )
    with safe_open(folder / 'model.safetensors', 'np') as file:
        names = set(file.keys())

        def get(name):
            value = file.get_tensor(name).astype(np.float32)
            scale = f'{name}_scale'
            return torch.from_numpy(value * file.get_tensor(scale) if scale in names else value)

        def matrix(name):
            if f'{name}.weight' in names:
                return get(f'{name}.weight')
            coded = f'{name}.compressed' in names
            part = lambda kind: file.get_tensor(f'{name}.{kind}' if coded else f'{name}.weight.{kind}')  # noqa: E731
            rows, columns = part('shape')
            mask = np.unpackbits(part('bitmask'), axis=1, bitorder='little')[:, :columns].astype(bool)
            dense, stored = np.zeros((rows, columns), np.float32), part('compressed')
            if coded and stored.dtype == np.uint8:
                counts = mask.sum(1)
                place = np.arange(counts.sum()) + np.repeat(np.cumsum(counts % 2) - counts % 2, counts)
                stored = np.stack([stored & 15, stored >> 4], 1).ravel()[place].astype(np.float32) - 8
            dense[mask] = stored
            if coded:
                scale = part('weight_scale').astype(np.float32)
                dense *= np.repeat(scale, -(-columns // scale.shape[1]), 1)[:, :columns]
            return torch.from_numpy(dense)

        layers = []
        for i in range(config.layers):
            w = lambda kind: matrix(f'model.layers.{i}.{kind}')  # noqa: B023, E731
            norm = lambda kind: get(f'model.layers.{i}.{kind}.weight')  # noqa: B023, E731
            layers.append(
                {
                    'attn_norm': norm('input_layernorm'),
                    'qkv': torch.cat([w(f'self_attn.{x}_proj') for x in 'qkv']),
                    'out': w('self_attn.o_proj'),
                    'mlp_norm': norm('post_attention_layernorm'),
                    'gate_up': torch.cat([w('mlp.gate_proj'), w('mlp.up_proj')]),
                    'down': w('mlp.down_proj'),
                }
            )
        params = {'embed': get('model.embed_tokens.weight'), 'norm': get('model.norm.weight'), 'layers': layers}
    return config, tree_map(lambda t: t.to(DEVICE), params)
