# The strong recipe (docs/strong_recipe.md), for recipes to use: the prompts of a training image are exemplars of other
# images, batches share classes so that there are some, and the prompt encoder classifies the detected boxes.
strong_prompts = dict(prompt_sampling='class_prototype', exclude_self=True)
strong_batches = dict(type='SharedClassBatchSampler')
strong_scores = dict(rescoring=dict(), nms=dict(type='nms', iou_threshold=0.7))
