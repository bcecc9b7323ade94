# DINO-R1 with Swin-T, fine-tuned on COCO with language alignment: boxes and class names prompt one network.
# BERT is frozen. To evaluate with class names: --cfg-options test_cfg.prompts.type=TextPrompts
_base_ = [
    '../_base_/models/dino_r1_swin-t.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_12e.py',
    '../_base_/grqo_runtime.py',
]

model = dict(
    bbox_head=dict(loss_grqo={{_base_.loss_grqo}}),
    prompts=dict(
        language_model=dict(
            type='BertModel',
            name='bert-base-uncased',
            max_tokens=256,
            pad_to_max=False,
            use_sub_sentence_represent=True,
            special_tokens_list=['[CLS]', '[SEP]', '.', '?'],
            add_pooling_layer=False,
        ),
        alignment=dict(type='LanguageAlignment', loss_weight=100.0),
        # One prompt per class name, the form that the alignment trains.
        text_prompts='class',
    ),
)

# Class names are passed with every training image, for the language alignment.
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction', 'text')
train_pipeline = [*_base_.train_pipeline[:-1], dict(type='PackDetInputs', meta_keys=meta_keys)]
train_dataloader = dict(dataset=dict(return_classes=True, pipeline=train_pipeline))

default_hooks = dict(
    reference=dict(warmup=1, dtype='bfloat16'),
)

# The public weights of MM-Grounding-DINO-T, with its BERT, downloaded when a training starts. They lack only the prompt
# encoder and the scale of the alignment, which the supervised epoch trains. A checkpoint of dino-r1_swin-t_8xb4_6e_o365
# has a prompt encoder and needs no supervised epoch, but it has no language model:
# --cfg-options load_from=PATH default_hooks.reference.warmup=0
load_from = {{_base_.mm_grounding_dino}}
