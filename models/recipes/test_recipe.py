"""python -m pytest test_recipe.py (needs torch, numpy, safetensors): masks, rounding, files, allocation, licences."""

import time

import pytest
import torch

import checkpoint
from corpus import is_permissive
from flat import Flat
from loss import DistillLoss
from mixture import Mixture, remember
from model import COMPUTE, DEVICE, Config, Llama, matrices_of, sparsity, tensors_of, tree_map
from quantize import quantize_params, round_i4, round_i8
from repeats import repeats
from search import MaskSearch, kth_smallest
from soup import soup
from sparsegpt import allocate, sparsegpt
from tasks import last_number, python_of, rouge, runs, same_number
from train import Trainer

CONFIG = Config(64, 128, 2, 2, 1, 256, 1e-5, 10000.0, head_dim=32, max_positions=64)

SPEC = {
    'tokens': 512, 'batch': 2, 'length': 32, 'lr': 3e-3, 'warmup': 0.1, 'floor': 0.1, 'kd': 1.0, 'ce': 0.2,
    'mix': {'x': 1.0}, 'seed': 1, 'qat_from': 0.5, 'qat': {'i8': 0.5, 'i4': 0.5},
}  # fmt: skip


def random_params():
    torch.manual_seed(0)
    randn = lambda *shape: 0.1 * torch.randn(*shape, device=DEVICE)  # noqa: E731
    layer = lambda: {  # noqa: E731
        'attn_norm': torch.ones(64, device=DEVICE), 'qkv': randn(128, 64), 'out': randn(64, 64),
        'mlp_norm': torch.ones(64, device=DEVICE), 'gate_up': randn(256, 64), 'down': randn(64, 128),
    }  # fmt: skip
    return {'embed': randn(256, 64), 'norm': torch.ones(64, device=DEVICE), 'layers': [layer(), layer()]}


def pruned_params(target):
    params = random_params()
    ids = torch.randint(0, 256, (8, 32), device=DEVICE)
    return sparsegpt(Llama(CONFIG), params, ids, allocate(CONFIG, target, {'v': -0.1}, {0: -0.05}), batch=4)


def test_zeros_are_identical_from_pruning_to_the_file(tmp_path):
    dense, pruned = random_params(), pruned_params(0.6)
    masks = [w != 0 for w in matrices_of(pruned)]
    stream = {'x': torch.randint(0, 256, (4000,), dtype=torch.int32, device=DEVICE)}
    trainer = Trainer(CONFIG, tree_map(lambda t: t.to(COMPUTE), dense), lambda *a, **k: None, compiled=False)
    trained = trainer.run('test', pruned, stream, SPEC)
    assert any((a != b).any() for a, b in zip(matrices_of(trained), matrices_of(pruned)))
    assert checkpoint.mask_digest(CONFIG, trained) == checkpoint.mask_digest(CONFIG, pruned)
    checkpoint.save(tmp_path, CONFIG, trained)
    _, loaded = checkpoint.load(tmp_path)
    for mask, after, read in zip(masks, matrices_of(trained), matrices_of(loaded)):
        assert torch.equal(mask, after != 0)
        assert torch.equal(mask, read != 0)
    for grid in ('i8', 'i4'):
        for mask, rounded in zip(masks, matrices_of(quantize_params(loaded, grid))):
            assert not (rounded[~mask] != 0).any()


SEARCH = {'sparsity': 0.5, 'until': 0.5, 'ramp': 0.3, 'every': 2, 'decay': 4.0, 'score': 'fisher', 'scope': 'model'}


@pytest.mark.parametrize(('score', 'scope'), [('fisher', 'model'), ('fisher', 'matrix'), ('magnitude', 'matrix')])
def test_a_searched_mask_is_frozen_at_the_wanted_sparsity(score, scope):
    dense, records = random_params(), []
    trainer = Trainer(
        CONFIG, tree_map(lambda t: t.to(COMPUTE), dense), lambda _, record=None: records.append(record), compiled=False
    )
    stream = {'x': torch.randint(0, 256, (4000,), dtype=torch.int32, device=DEVICE)}
    search = SEARCH | {'score': score, 'scope': scope, 'allocation': {'kinds': {'v': -0.2}}}
    spec = SPEC | {'tokens': 2048, 'search': search}
    trained = trainer.run('50', dense, stream, spec)
    frozen = next(r for r in records if r and 'frozen' in r)
    assert frozen['sha256'] == checkpoint.mask_digest(CONFIG, trained)
    assert abs(sparsity(trained) - 0.5) < 0.001
    if scope == 'matrix':
        assert abs(frozen['kept']['v'][0] - frozen['kept']['q'][0] - 0.2) < 0.01
    further = trainer.run('70', trained, stream, spec | {'search': search | {'sparsity': 0.7}})
    assert abs(sparsity(further) - 0.7) < 0.001


def test_the_search_rises_cubically_and_takes_what_matters_least():
    flat = Flat(CONFIG)
    theta = flat.vector(random_params())
    search = MaskSearch(flat, theta, SEARCH | {'score': 'magnitude'})
    assert search.sparsity(0) == 0 and search.sparsity(0.3) == search.sparsity(0.9) == 0.5
    assert abs(search.sparsity(0.15) - 0.5 * (1 - 0.5**3)) < 1e-9
    search.refresh(theta, torch.ones_like(theta), 0.4)
    kept, gone = theta[search.span][search.mask[search.span]], theta[search.span][~search.mask[search.span]]
    assert gone.abs().max() < kept.abs().min()
    assert search.mask[: flat.embed_end].all() and search.mask[flat.matrices_end :].all()


def test_kth_smallest_is_that_of_a_sort():
    values = torch.randn(5, 300).abs()
    values[0, :100] = 0
    counts = torch.tensor([100, 1, 300, 150, 0])
    expected = [values[i].sort()[0][c - 1] if c else 0.0 for i, c in enumerate(counts)]
    assert kth_smallest(values, counts)[:, 0].tolist() == [float(e) for e in expected]


def test_repeats_start_with_the_third_time():
    phrase = [10, 11, 12, 13, 14, 15, 16, 17]
    ids = torch.tensor([phrase + [20] + phrase + [21] + phrase + [22, 30]])
    assert repeats(ids)[0].nonzero()[:, 0].tolist() == [25]
    assert repeats(torch.tensor([[5] * 12]), gram=8, times=3)[0].nonzero()[:, 0].tolist() == [9, 10, 11]
    turn = [10, 11, 12, 2, 14, 15, 16, 17]  # an end of turn within
    assert not repeats(torch.tensor([turn * 6])).any()


def test_gradient_of_the_loss_is_autograds():
    torch.manual_seed(3)
    h, teacher = torch.randn(6, 16), torch.randn(6, 16)
    head, target = torch.randn(40, 16), torch.randint(0, 40, (6,))
    kd, ce, avoid = torch.tensor([1, 1, 0, 0, 1, 0.0]), torch.tensor([0, 0.3, 0, 0, 0, 0]), torch.tensor([0, 0, 2, 1, 0, 0.5])
    a, b = (h.clone().requires_grad_(True) for _ in range(2))
    loss = DistillLoss.apply(a, head, teacher, head, target, kd, ce, avoid)[0]
    loss.backward()
    log_s, log_t = (b @ head.t()).log_softmax(-1), (teacher @ head.t()).log_softmax(-1)
    log_p = log_s.gather(1, target[:, None])[:, 0]
    each = kd * (log_t.exp() * (log_t - log_s)).sum(1) - ce * log_p - avoid * torch.log1p(-log_p.exp())
    each.mean().backward()
    assert torch.allclose(loss, each.mean(), atol=1e-5)
    assert torch.allclose(a.grad, b.grad, atol=1e-5)


def test_what_only_repeats_is_not_distilled():
    stream = torch.tensor([10, 11, 12, 13, 14, 15, 16, 17, 20] * 8, dtype=torch.int32)
    spec = {'length': 32, 'seed': 1, 'kd': 1.0, 'ce': {'other': 0.5}, 'avoid': {'x': 2.0}}
    for name, weight in (('x', 2.0), ('y', 0.0)):
        _, y, loss, _ = Mixture({name: stream}, {name: 1.0}, spec).next(1)
        kd, ce, avoid = loss
        flagged = avoid > 0
        assert bool(flagged.any()) == (weight > 0)
        assert (kd[flagged] == 0).all() and (ce[flagged] == 0).all() and (avoid[flagged] == weight).all()
        assert (kd[~flagged] == 1).all() and (ce[~flagged] == 0.5).all()


def test_file_holds_exactly_the_half_precision_values(tmp_path):
    params = pruned_params(0.5)
    matrices_of(params)[0][0, :8] = 1e-9  # would be flushed to zero by f16
    for sparse in (True, False):
        checkpoint.save(tmp_path / str(sparse), CONFIG, params, sparse)
        config, loaded = checkpoint.load(tmp_path / str(sparse))
        assert config == CONFIG
        for a, b in zip(tensors_of(checkpoint.as_shipped(params)), tensors_of(loaded)):
            assert torch.equal(a, b)
    assert (matrices_of(loaded)[0][0, :8] != 0).all()


@pytest.mark.parametrize('grid', [round_i8, round_i4])
def test_rounding_is_idempotent_and_keeps_zero(grid):
    weight = torch.randn(32, 128)
    weight[torch.rand_like(weight) < 0.7] = 0
    once = grid(weight)
    assert torch.allclose(grid(once), once, rtol=1e-6, atol=0)
    assert (once[weight == 0] == 0).all()
    assert (once - weight).norm() / weight.norm() < 0.1


def test_allocation_keeps_the_mean():
    shares = allocate(CONFIG, 0.7, {'k': -0.15, 'down': -0.05}, {0: -0.1, -1: -0.1})
    params = pruned_params(0.7)
    assert abs(sparsity(params) - 0.7) < 0.005
    assert shares[0, 'k'] < shares[0, 'q']
    assert len(shares) == CONFIG.layers * 7


def test_text_under_other_licences_is_refused():
    assert not is_permissive('instruct', 'LIMA(LLaMA-Factory history f7c72481)')
    assert not is_permissive('instruct', 'codealpaca:data/new_codealpaca.json')
    assert not is_permissive('dialogue', 'SGD:train/dialogues_044.json')
    assert not is_permissive('python_code', 'deb:ansible:usr/lib/python3/x.py')
    assert is_permissive('python_code', 'deb:python3-numpy:usr/lib/python3/x.py')
    with pytest.raises(ValueError, match='licences'):
        is_permissive('new_shard', 'x')


def test_flat_vector_rounds_as_the_tree(tmp_path):
    params, flat = pruned_params(0.5), Flat(CONFIG)
    vector = flat.vector(params)
    for a, b in zip(tensors_of(flat.tree(vector)), tensors_of(params)):
        assert torch.equal(a, b)
    for grid in ('i8', 'i4'):
        rounded = torch.empty_like(vector)
        flat.round_into(rounded, vector, grid)
        for a, b in zip(tensors_of(flat.tree(rounded)), tensors_of(quantize_params(params, grid))):
            assert torch.equal(a, b)


def test_remembered_states_train_as_computed_ones():
    dense, pruned = random_params(), pruned_params(0.5)
    stream = {'x': torch.randint(0, 256, (2000,), dtype=torch.int32, device=DEVICE)}
    trainer = Trainer(CONFIG, tree_map(lambda t: t.to(COMPUTE), dense), lambda *a, **k: None, compiled=False)
    states = {'x': remember(trainer.plain, trainer.teacher, stream['x'], 32, 4)}
    one, other = (trainer.run('t', pruned, stream, SPEC, remembered=r) for r in (None, states))
    for a, b in zip(tensors_of(one), tensors_of(other)):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_run_resumes_where_it_was(tmp_path):
    dense, pruned = random_params(), pruned_params(0.5)
    stream = {'x': torch.randint(0, 256, (2000,), dtype=torch.int32, device=DEVICE)}
    trainer = Trainer(CONFIG, tree_map(lambda t: t.to(COMPUTE), dense), lambda *a, **k: None, compiled=False)
    whole = trainer.run('t', pruned, stream, SPEC | {'qat_from': 1.0})
    path = str(tmp_path / 'resume')

    class Stop(Exception):
        pass

    def stop_after_saving(*state):
        Trainer._save(*state)
        raise Stop

    trainer._save = stop_after_saving
    with pytest.raises(Stop):
        trainer.run('t', pruned, stream, SPEC | {'qat_from': 1.0, 'checkpoint_seconds': 0, 'log_every': 3}, path)
    del trainer._save
    again = trainer.run('t', pruned, stream, SPEC | {'qat_from': 1.0}, path)
    for a, b in zip(tensors_of(whole), tensors_of(again)):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_run_by_time_ends_in_time_and_exports_on_the_way(tmp_path):
    dense, pruned = random_params(), pruned_params(0.5)
    stream = {'x': torch.randint(0, 256, (2000,), dtype=torch.int32, device=DEVICE)}
    records, exported, asked = [], [], []
    trainer = Trainer(
        CONFIG, tree_map(lambda t: t.to(COMPUTE), dense), lambda _, record=None: records.append(record), compiled=False
    )
    spec = {k: v for k, v in SPEC.items() if k != 'tokens'} | {'log_every': 2, 'export_seconds': 0}
    began = time.time()

    def ends():  # moved while the run goes on
        asked.append(time.time())
        return began + (60 if len(asked) < 3 else 2)

    trained = trainer.run('t', pruned, stream, spec, ends=ends, export=lambda params: exported.append(sparsity(params)))
    assert 1 < time.time() - began < 10
    assert len(exported) > 2 and set(exported) == {sparsity(trained)} == {sparsity(pruned)}
    with pytest.raises(ValueError, match='neither'):
        trainer.run('t', pruned, stream, spec)


def test_weights_of_the_loss_may_move_along_the_run():
    stream = torch.arange(5, 205, dtype=torch.int32, device=DEVICE)
    spec = {'length': 32, 'seed': 1, 'kd': 1.0, 'ce': {'y': 0.0, 'other': [0.2, 0.6]}}
    data = Mixture({'x': stream}, {'x': 1.0}, spec)
    for done, expected in ((0.0, 0.2), (0.5, 0.4), (1.0, 0.6)):
        _, _, (kd, ce, _), _ = data.next(2, done)
        assert (kd == 1).all() and torch.allclose(ce, torch.full_like(ce, expected))


def test_zeros_stay_zeros_when_more_is_pruned():
    once = pruned_params(0.5)
    ids = torch.randint(0, 256, (8, 32), device=DEVICE)
    further = sparsegpt(Llama(CONFIG), once, ids, allocate(CONFIG, 0.6, {'v': -0.1}, {0: -0.05}), batch=4)
    assert abs(sparsity(further) - 0.6) < 0.005
    assert all((b[a == 0] == 0).all() for a, b in zip(matrices_of(once), matrices_of(further)))


def test_judges():
    assert last_number('so 3 + 4 = 7.\n#### 1,207') == '1207'
    assert last_number('He has 7 apples.') == '7'
    assert same_number('7.0', '7') and not same_number(None, '7')
    assert rouge('the cat sat', 'the cat sat') == {'rouge1': 1.0, 'rouge2': 1.0, 'rougeL': 1.0}
    assert rouge('a dog', 'the cat')['rougeL'] == 0.0
    assert runs('assert 1 + 1 == 2') and not runs('assert 1 + 1 == 3')
    assert python_of('Sure:\n```python\nx = 1\n```\nDone') == 'x = 1\n'


def test_codes_are_read_back_as_the_rounded_values(tmp_path):
    params = pruned_params(0.5)
    for grid in ('i8', 'i4'):
        rounded = quantize_params(params, grid)
        (tmp_path / grid).mkdir()
        checkpoint.save(tmp_path / grid, CONFIG, params)
        checkpoint.save_codes(tmp_path / grid / 'model.safetensors', CONFIG, params, grid)
        _, loaded = checkpoint.load(tmp_path / grid)
        for a, b in zip(tensors_of(rounded), tensors_of(loaded)):
            assert torch.equal(a, b)


def test_a_soup_is_the_mean_and_zero_where_all_are():
    models = [pruned_params(0.5), tree_map(lambda t: t.flip(0), pruned_params(0.6))]
    mixed = soup(models)
    for a, b, mean in zip(*map(tensors_of, (*models, mixed))):
        assert torch.equal(mean, (a + b) / 2)
    for a, b, mean in zip(*map(matrices_of, (*models, mixed))):
        assert torch.equal(mean == 0, (a == 0) & (b == 0))
