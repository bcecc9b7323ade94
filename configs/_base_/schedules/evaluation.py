# Evaluation without training, for configs that evaluate the checkpoint of another config.
# Every image is prompted with the mean of 16 exemplars of each class, drawn from prompt_dataset. For another protocol:
# --cfg-options test_cfg.prompts.type=VisualInteractive
prompts = dict(type='VisualGeneric')
val_cfg = dict(type='PromptedValLoop', prompts=prompts)
test_cfg = dict(type='PromptedTestLoop', prompts=prompts)
