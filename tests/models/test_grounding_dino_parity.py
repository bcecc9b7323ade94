"""DINO-R1 with text prompts equals MMDetection's Grounding DINO: same weights, same outputs, same losses."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch.utils._python_dispatch import TorchDispatchMode

from dinor1.models import GRQOLoss
from dinor1.models.losses import pad_targets
from dinor1.registry import MODELS
from dinor1.structures import DenoisingGroups, DetectorOutput, PromptBatch, QuerySelection
from dinor1.utils.errors import InputError
from tests.conftest import tiny_config

NAMES = ['cat', 'red dog', 'cup_(drinking)']
MISSING = {'content_query', 'visual_bbox_encoding', 'cross_attn', 'self_attn', 'ffn', 'norms'}


@pytest.fixture(scope='session')
def bert_folder(tmp_path_factory):
    """A BERT of 2 layers and a small vocabulary, as the library transformers saves them."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp('bert')
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?', 'cat', 'red', 'dog', 'cup', 'house']
    (folder / 'vocab.txt').write_text('\n'.join(words))
    tokenizer = BertTokenizerFast(str(folder / 'vocab.txt'))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    return folder


def language_model(folder):
    return dict(
        type='BertModel',
        name=str(folder),
        max_tokens=64,
        pad_to_max=False,
        use_sub_sentence_represent=True,
        special_tokens_list=['[CLS]', '[SEP]', '.', '?'],
        add_pooling_layer=False,
    )


@pytest.fixture
def pair(build_tiny, bert_folder):
    """Our detector and MMDetection's, with the same weights and MMDetection's fixed width 256."""
    # Build our detector.
    overrides = {
        'model.transformer.embed_dims': 256,
        'model.transformer.num_heads': 8,
        'model.transformer.feedforward_channels': 64,
        'model.encoder.fusion.embed_dims': 1024,
        'model.prompts.language_model': language_model(bert_folder),
    }
    ours = build_tiny(**overrides)
    for name, parameter in ours.named_parameters():
        # Change the initial values, at which fusion layers and box heads have almost no effect.
        if name.endswith(('gamma_v', 'gamma_l')):
            parameter.data.fill_(0.3)
        if 'reg_branches' in name:
            parameter.data.normal_(std=0.05)
    # Build MMDetection's detector.
    attention = dict(embed_dims=256, num_heads=8, dropout=0.0)
    ffn = dict(embed_dims=256, feedforward_channels=64, ffn_drop=0.0)
    theirs = MODELS.build(
        ConfigDict(
            type='mmdet.GroundingDINO',
            num_queries=ours.num_queries,
            with_box_refine=True,
            as_two_stage=True,
            num_feature_levels=3,
            backbone=tiny_config().model.backbone,
            neck=dict(
                type='ChannelMapper',
                in_channels=[16, 32],
                kernel_size=1,
                out_channels=256,
                bias=True,
                act_cfg=None,
                norm_cfg=dict(type='GN', num_groups=8),
                num_outs=3,
            ),
            language_model=language_model(bert_folder),
            encoder=dict(
                num_layers=1,
                layer_cfg=dict(self_attn_cfg=dict(attention, num_levels=3), ffn_cfg=ffn),
                text_layer_cfg=dict(
                    self_attn_cfg=dict(attention, num_heads=4), ffn_cfg=dict(ffn, feedforward_channels=1024)
                ),
                fusion_layer_cfg=dict(v_dim=256, l_dim=256, embed_dim=1024, num_heads=4, init_values=1e-4),
            ),
            decoder=dict(
                num_layers=2,
                return_intermediate=True,
                layer_cfg=dict(
                    self_attn_cfg=attention,
                    cross_attn_text_cfg=attention,
                    cross_attn_cfg=dict(attention, num_levels=3),
                    ffn_cfg=ffn,
                ),
                post_norm_cfg=None,
            ),
            positional_encoding=dict(num_feats=128, normalize=True, offset=0.0, temperature=20),
            bbox_head=dict(
                type='mmdet.GroundingDINOHead',
                num_classes=8,
                sync_cls_avg_factor=True,
                contrastive_cfg=dict(max_text_len=64, log_scale='auto', bias=True),
                loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
                loss_bbox=dict(type='L1Loss', loss_weight=5.0),
                loss_iou=dict(type='GIoULoss', loss_weight=2.0),
            ),
            dn_cfg=dict(label_noise_scale=0.5, box_noise_scale=1.0, group_cfg=dict(dynamic=True, num_dn_queries=8)),
            train_cfg=dict(
                assigner=dict(
                    type='HungarianAssigner',
                    match_costs=[
                        dict(type='BinaryFocalLossCost', weight=2.0),
                        dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                        dict(type='IoUCost', iou_mode='giou', weight=2.0),
                    ],
                )
            ),
            test_cfg=dict(max_per_img=10),
        )
    )
    # Copy the weights.
    result = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not result.missing_keys
    assert {key.split('.')[0] for key in result.unexpected_keys} == {'prompt_encoder'}
    return ours.eval(), theirs.eval()


def test_grounding_dino_checkpoint_lacks_only_the_prompt_encoder(pair):
    ours, theirs = pair
    result = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not result.unexpected_keys
    prefix = 'prompt_encoder.'
    assert all(key.startswith(prefix) for key in result.missing_keys)
    assert {key.removeprefix(prefix).split('.')[0] for key in result.missing_keys} == MISSING


def test_frozen_language_model_has_no_dropout_in_training(build_tiny, bert_folder):
    model = build_tiny(**{'model.prompts.language_model': language_model(bert_folder)}).train()
    first, second = (model.text_prompt_set(NAMES).embeddings for _ in range(2))
    assert model.training
    assert torch.equal(first, second)


def test_alignment_adds_only_the_logit_scale(build_tiny, bert_folder):
    """Alignment adds one parameter to those of the detector without it."""
    plain = build_tiny(**{'model.prompts.language_model': language_model(bert_folder)})
    aligned = build_tiny(
        **{'model.prompts.language_model': language_model(bert_folder), 'model.prompts.alignment': dict()}
    )
    assert set(aligned.state_dict()) - set(plain.state_dict()) == {'alignment.logit_scale'}


def text_logits(theirs, inputs, samples):
    """Logits and boxes of all decoder layers of MMDetection's detector."""
    _, caption, _, _ = theirs.get_tokens_positive_and_prompts(NAMES, True)
    text = theirs.language_model([caption] * len(inputs))
    text['embedded'] = theirs.text_feat_map(text['embedded'])
    outputs = theirs.forward_transformer(theirs.extract_feat(inputs), text, samples)
    return theirs.bbox_head(**outputs)


@torch.no_grad()
def test_text_logits_and_boxes_equal_grounding_dino(pair, make_batch):
    ours, theirs = pair
    inputs, samples = make_batch((2, 1), shapes=[(64, 48), (56, 64)])
    logits, boxes = ours(inputs, samples, prompts=ours.text_prompt_set(NAMES))
    their_logits, their_boxes = text_logits(theirs, inputs, samples)
    their_logits = their_logits[..., : logits.shape[-1]]
    assert torch.isfinite(logits).any()
    assert torch.equal(logits.isinf(), their_logits.isinf())
    finite = logits.isfinite()
    # Same weights and formulas in float32: only the order of a few sums differs.
    assert (logits - their_logits)[finite].abs().max() < 1e-5
    assert (boxes - their_boxes).abs().max() < 1e-5


@torch.no_grad()
def test_text_detections_equal_grounding_dino(pair, make_batch):
    ours, theirs = pair
    inputs, samples = make_batch((2, 1), shapes=[(64, 48), (56, 64)])
    mine = [s.pred_instances for s in ours.predict(inputs, copy.deepcopy(samples), ours.text_prompt_set(NAMES))]
    for sample in samples:
        sample.text, sample.custom_entities = NAMES, True
    for found, expected in zip(mine, theirs.predict(inputs, samples), strict=True):
        expected = expected.pred_instances
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.bboxes, expected.bboxes, atol=1e-3, rtol=1e-4)
        assert torch.equal(found.labels, expected.labels)
        assert found.label_names == [NAMES[label] for label in found.labels]


class LossInputs:
    """Random decoder outputs, and the losses that both heads compute from them.

    Attributes:
        tensors: ``hidden`` (2, 3, 6 + 12, 256), denoising queries first; ``prompts`` (3, 5, 256); ``enc_class`` and
            ``enc_boxes`` (3, 12, ...), boxes as logits.
    """

    # One group of denoising queries: a positive and a negative query for each of at most 3 objects.
    num_dn, num_queries, num_prompts, counts = 6, 12, 5, (3, 0, 2)

    def __init__(self, make_batch):
        # Make the ground truth in both formats.
        _, self.samples = make_batch(self.counts, shapes=[(64, 48), (64, 64), (40, 64)])
        self.instances, self.positive_maps = [], []
        for sample in self.samples:
            eye = torch.eye(self.num_prompts)[sample.gt_instances.labels % self.num_prompts]
            self.positive_maps.append(eye)
            self.instances.append(
                InstanceData(
                    bboxes=sample.gt_instances.bboxes,
                    labels=sample.gt_instances.labels,
                    positive_maps=torch.nn.functional.pad(eye, (0, 64 - self.num_prompts)),
                    text_token_mask=torch.arange(64)[None].repeat(len(eye), 1) < self.num_prompts,
                )
            )
        # Draw the outputs of the decoder and of the encoder stage.
        batch, queries = len(self.counts), self.num_dn + self.num_queries
        self.references = torch.rand(3, batch, queries, 4) * 0.8 + 0.1
        self.mask = torch.ones(batch, self.num_prompts, dtype=torch.bool)
        self.tensors = dict(
            hidden=torch.randn(2, batch, queries, 256) * 0.5,
            prompts=torch.randn(batch, self.num_prompts, 256),
            enc_class=torch.randn(batch, self.num_queries, self.num_prompts),
            enc_boxes=torch.randn(batch, self.num_queries, 4),
        )

    def ours(self, head, hidden, prompts, enc_class, enc_boxes):
        gt_boxes, shapes = [s.gt_instances.bboxes for s in self.samples], [s.img_shape for s in self.samples]
        best = enc_class.amax(-1)
        output = DetectorOutput(
            hidden_states=hidden,
            references=self.references,
            prompts=PromptBatch(prompts, self.mask, torch.arange(self.num_prompts).expand_as(self.mask)),
            selection=QuerySelection(best.detach().argsort(-1), best, enc_class, enc_boxes.sigmoid()),
            denoising=DenoisingGroups(self.num_dn, 1),
        )
        return head.loss(output, pad_targets(gt_boxes, self.positive_maps, shapes), best.detach() + 0.1)

    def theirs(self, head, hidden, prompts, enc_class, enc_boxes):
        head.text_masks = self.mask
        outs = head(hidden, list(self.references), prompts, self.mask)
        padding = enc_class.new_full((*enc_class.shape[:2], 64 - self.num_prompts), float('-inf'))
        enc_class = torch.cat([enc_class, padding], -1)
        metas = [s.metainfo for s in self.samples]
        dn_meta = dict(num_denoising_queries=self.num_dn, num_denoising_groups=1)
        return head.loss_by_feat(*outs, enc_class, enc_boxes.sigmoid(), self.instances, metas, dn_meta)


def test_head_losses_equal_mmdetection(pair, make_batch):
    """Matching, targets, denoising and all losses equal those of MMDetection's loops over layers and images."""
    ours, theirs = pair
    torch.manual_seed(3)
    inputs = LossInputs(make_batch)
    mine = inputs.ours(ours.bbox_head, **inputs.tensors)
    expected = inputs.theirs(theirs.bbox_head, **inputs.tensors)
    assert set(mine) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(mine[name], value.squeeze(), atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f'{n}: {m}')


@pytest.mark.parametrize('grqo', [None, {}, dict(groups='prompt', one_sided_kl=True)])
def test_head_loss_copies_to_the_host_once(pair, make_batch, grqo):
    """A host waits for its GPU when it reads a value, needs a size that depends on values, or copies a tensor."""
    head = pair[0].bbox_head
    head.loss_grqo = None if grqo is None else GRQOLoss(**grqo)
    inputs = LossInputs(make_batch)
    with HostReads() as reads:
        inputs.ours(head, **inputs.tensors)
    assert reads.found == []
    # The matching copies once with .cpu(), which is not recorded on a CPU. Check that other reads are recorded.
    with HostReads() as reads:
        float(inputs.mask.any()), inputs.mask.nonzero(), inputs.references[inputs.references > 0.5]
    assert len(reads.found) == 3


class HostReads(TorchDispatchMode):
    """Record the names of operations that make the host wait."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = func is torch.ops.aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        if masks or func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def test_head_losses_equal_mmdetection_over_20_iterations(pair, make_batch):
    """Each head trains its own weights and decoder outputs on its own losses, so that gradients are compared too."""
    torch.manual_seed(3)
    inputs = LossInputs(make_batch)
    runs = []
    for model, loss in zip(pair, (inputs.ours, inputs.theirs), strict=True):
        head = model.bbox_head
        tensors = {name: tensor.clone().requires_grad_() for name, tensor in inputs.tensors.items()}
        optimizer = torch.optim.SGD([*head.parameters(), *tensors.values()], lr=0.01)
        history = []
        for _ in range(20):
            losses = loss(head, **tensors)
            history.append({name: value.squeeze().detach() for name, value in losses.items()})
            optimizer.zero_grad()
            sum(losses.values()).sum().backward()
            optimizer.step()
        runs.append(history)
    for step, (mine, expected) in enumerate(zip(*runs, strict=True)):
        for name, value in expected.items():
            # The order of float32 sums differs, over up to 20 updates.
            torch.testing.assert_close(
                mine[name], value, atol=1e-4, rtol=1e-4, msg=lambda m, at=(step, name): f'{at}: {m}'
            )
    first, last = (sum(float(value) for value in runs[0][step].values()) for step in (0, -1))
    assert last < 0.8 * first


@torch.no_grad()
def test_encode_text_in_several_texts_gives_the_same_prompts(build_tiny, bert_folder):
    """A text of at most 12 tokens cannot hold all five names."""
    config = language_model(bert_folder)
    model = build_tiny(**{'model.prompts.language_model': config}).eval()
    names = ['cat', 'red dog', 'cup', 'house', 'red house']
    whole = model.text_prompt_set(names)
    model.language_model.max_tokens = 12
    parts = model.text_prompt_set(names)
    assert parts.names == whole.names
    # float32 sums over another number of tokens.
    torch.testing.assert_close(parts.class_embeddings(), whole.class_embeddings(), atol=1e-5, rtol=0)
    assert len(parts.embeddings) == len(whole.embeddings)
    model.language_model.max_tokens = 4
    with pytest.raises(InputError, match="'red dog' needs 5 tokens, the language model takes 4; shorten the name"):
        model.text_prompt_set(names)
