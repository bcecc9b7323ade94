"""Class prototypes, compared with the release and a case by hand."""

import numpy as np
import pytest
import torch

from dinor1.models.prompts import class_prototypes, positive_maps, sample_prompts


def test_prototypes_are_plain_means_sorted_by_label():
    prompts = torch.tensor([[1.0, 0], [0, 2], [5, 0]])
    means, classes = class_prototypes(prompts, torch.tensor([7, 3, 7]))
    assert classes.tolist() == [3, 7]
    assert means.tolist() == [[0, 2], [3, 0]]


def test_prototypes_of_no_prompt_are_empty():
    means, classes = class_prototypes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assert means.shape == (0, 4)
    assert classes.shape == (0,)


@pytest.mark.shared
@pytest.mark.parametrize('case', ['proto0', 'proto1'])
def test_prototypes_equal_the_release(shared_dir, case):
    with np.load(shared_dir / 'oracles/strong_vp_public.npz') as file:
        data = {key.split('/', 1)[1]: torch.from_numpy(file[key]) for key in file.files if key.startswith(f'{case}/')}
    prompts = data['prompts'].requires_grad_()
    valid = ~data['padding_mask']
    means, classes = class_prototypes(prompts[valid], data['labels'][valid])
    assert torch.equal(classes, data['classes'])
    torch.testing.assert_close(means, data['prototypes'], rtol=0, atol=1e-9)
    (means * data['probe_weight']).sum().backward()
    torch.testing.assert_close(prompts.grad, data['grad_prompts'], rtol=0, atol=1e-9)
    # Positive maps compare labels.
    gt_labels = [data[f'gt_labels{b}'] for b in range(len(prompts))]
    draw = sample_prompts([classes])
    for b, positive in enumerate(positive_maps(gt_labels, draw)):
        assert torch.equal(positive, data[f'positive_map{b}'])
