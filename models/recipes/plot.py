"""Training curves as SVG: python plot.py results.jsonl curves.svg"""

import json
import sys

import matplotlib

matplotlib.use('svg')
matplotlib.rcParams['svg.hashsalt'] = 'filigree'
from matplotlib import pyplot as plt  # noqa: E402

runs = [json.loads(line) for line in open(sys.argv[1])]
runs = [r for r in runs if 'run' in r and ' ' not in r['run']]  # not the fine-tunes
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout='constrained')
start = 0.0
for run in runs:
    tokens, kl, ce = zip(*run['history'])
    x = [start + t / 1e6 for t in tokens]
    for axis, y in zip(axes, (kl, ce)):
        (line,) = axis.plot(x, y, linewidth=1, label=run['run'])
        onset = run['spec']['qat_from']
        if onset < 1:
            axis.axvline(start + onset * tokens[-1] / 1e6, color=line.get_color(), linestyle=':', linewidth=0.8)
    start = x[-1]
for axis, name in zip(axes, ('KL to the dense model (nats per token)', 'cross-entropy (nats per token)')):
    axis.set(xlabel='million tokens', title=name)
    axis.grid(alpha=0.3)
axes[0].set_yscale('log')
figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right upper', title='dotted: rounding begins')
figure.savefig(sys.argv[2], metadata={'Date': None})
