"""The visual prompt encoder: prompts do not depend on each other."""

import torch
from torch import nn

from dinor1.models.prompts import upgrade_prompt_encoder
from dinor1.models.prompts.visual import SelfOnlyAttention


@torch.no_grad()
def test_self_only_attention_equals_masked_attention():
    theirs, ours = nn.MultiheadAttention(16, 4, batch_first=True), SelfOnlyAttention(16)
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    state = {f'self_attn.attn.{name}': value for name, value in theirs.state_dict().items()}
    assert upgrade_prompt_encoder(state)
    assert not upgrade_prompt_encoder(state)
    ours.load_state_dict({name.removeprefix('self_attn.'): value for name, value in state.items()})
    prompts = torch.randn(2, 5, 16)
    expected, _ = theirs(prompts, prompts, prompts, attn_mask=~torch.eye(5, dtype=torch.bool))
    torch.testing.assert_close(ours(prompts), expected)


@torch.no_grad()
def test_encode_boxes_does_not_depend_on_other_boxes(build_tiny, make_batch):
    model = build_tiny().double().eval()
    inputs, samples = make_batch((5,))
    features = model.encode_image(inputs.double(), samples)
    boxes, shape = samples[0].gt_instances.bboxes.double(), samples[0].img_shape
    together = model.encode_boxes(features, [boxes], [shape])
    for box, expected in zip(boxes, together, strict=True):
        (alone,) = model.encode_boxes(features, [box[None]], [shape])
        torch.testing.assert_close(alone, expected, atol=1e-12, rtol=0)
    assert torch.cdist(together, together).fill_diagonal_(1).min() > 1e-6
