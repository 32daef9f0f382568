"""Every tensor of a compressed folder as the compressed-tensors library decompresses it, as f32 in one safetensors file.

Usage: compressed_tensors_values.py FOLDER OUT.safetensors
"""

import sys

from compressed_tensors.compressors import ModelCompressor
from safetensors.torch import save_file

folder, out = sys.argv[1:]
compressor = ModelCompressor.from_pretrained(folder)
assert compressor.sparsity_config.format == "sparse-bitmask", compressor.sparsity_config
tensors = compressor.sparsity_compressor.decompress(folder)
save_file({name: tensor.float().contiguous() for name, tensor in tensors}, out)
