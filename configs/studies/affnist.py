title = 'Affine-equivariant networks against plain ones, affine-transformed MNIST, 1,000 centred training digits'
_folder = 'configs/blocks/lie'
arms = {
    'GL+(2)': dict(config=f'{_folder}/affnist_gl2.py'),
    'SL(2)': dict(config=f'{_folder}/affnist_sl2.py'),
    'CNN': dict(config=f'{_folder}/affnist_cnn.py'),
    'CNN, training digits turned and scaled': dict(config=f'{_folder}/affnist_cnn_aug.py'),
}
seeds = [0, 1, 2]
metrics = {'accuracy/top1': 'top-1, %', 'accuracy/cross_entropy': 'cross-entropy'}
note = """
9,018 parameters in every arm, 40 epochs of 1,000 digits; tested on the 10,000 test digits, each under one map of
affNIST's ranges. At full scale (50,000 digits, 0.3 M parameters, the published test set): affConv 95.08 %,
InvarPDEs-Net 95.72, RU CapsNet 97.69, InvarLayer 98.45 (table of Li et al., CVPR 2024); arXiv 2310.11366 claims more
than all earlier models, its figure could not be sourced.
"""
