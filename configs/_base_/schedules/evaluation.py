# Nothing is trained: for configs that evaluate the checkpoint of another config.
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
