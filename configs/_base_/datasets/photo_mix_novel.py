# photo_mix, evaluated on the 32 novel categories of novel_categories.txt, which are not trained. Exemplars come from
# the 722 training images that photo_mix.py leaves out.
_base_ = './photo_mix.py'

novel = dict(exclude_categories=(), only_categories=_base_.novel_categories)
val_dataloader = dict(dataset=novel)
test_dataloader = dict(dataset=novel)
prompt_dataset = novel
