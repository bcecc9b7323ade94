# The shapes world, evaluated on its 4 novel categories, which never occur in training. Their exemplars come from a
# separate split.
_base_ = './shapes.py'

val_ann_file = 'annotations/val_novel.json'

val_dataloader = dict(dataset=dict(ann_file=val_ann_file, data_prefix=dict(img='images/val_novel/')))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{_base_.data_root}/{val_ann_file}')
test_evaluator = val_evaluator
prompt_dataset = dict(ann_file='annotations/support_novel.json', data_prefix=dict(img='images/support_novel/'))
