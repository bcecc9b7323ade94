# The icon world, evaluated on 300 concepts that never occur in training. Exemplars and objects to find are different
# drawings of a concept; with annotations/support_test_novel_same.json they are the same drawings.
_base_ = './icons.py'

val_ann_file = 'annotations/test_novel.json'

val_dataloader = dict(dataset=dict(ann_file=val_ann_file, data_prefix=dict(img='images/test_novel/')))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{_base_.data_root}/{val_ann_file}')
test_evaluator = val_evaluator
support = 'support_test_novel'
prompt_dataset = dict(ann_file=f'annotations/{support}.json', data_prefix=dict(img=f'images/{support}/'))
