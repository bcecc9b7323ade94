# Supervised training of the lite detector on photographs, in two processes of eight images. Evaluated on the novel
# categories of photo_mix, with a box on the image itself as the prompt, which counts neither as found nor as missed.
_base_ = [
    '../_base_/models/dino_r1_lite.py',
    '../_base_/datasets/photographs.py',
    '../_base_/schedules/lite_20e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    prompts=dict(
        # Exemplars come from the image itself or from others, and an image is often offered only some of the prompts.
        prompt_sampling='per_image',
        prompt_dropout=0.5,
        # The names of the classes organise the space of the prompts.
        language_model=dict(type='MiniLM'),
        text_prompts='class',
        alignment=dict(type='LanguageAlignment', loss_weight=1.0),
    ),
)
train_dataloader = dict(batch_size=8, num_workers=1)
# Evaluate and save the moving average of the weights.
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=2e-3, gamma=300, update_buffers=True, priority=49)
]
val_cfg = dict(prompts=dict(type='VisualInteractive'))
test_cfg = dict(prompts=dict(type='VisualInteractive'))
val_evaluator = dict(_delete_=True, type='VisualInteractiveMetric', ann_file=_base_.val_evaluator.ann_file)
test_evaluator = dict(_delete_=True, type='VisualInteractiveMetric', ann_file=_base_.test_evaluator.ann_file)
