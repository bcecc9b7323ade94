# Does training in bfloat16 on a CPU reduce accuracy? The supervised nano recipe in both precisions, from the same
# seeds. Criterion, fixed before the first run: it does not if the mean difference of AP over the seeds is below its 95
# % interval.
title = 'Training of nano in bfloat16 on a CPU'
config = 'configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes.py'
arms = {
    'float32': [],
    'bfloat16': ['optim_wrapper.type=CPUBFloat16OptimWrapper'],
}
seeds = [0, 1, 2]
metrics = {'coco/bbox_mAP': 'AP', 'coco/bbox_mAP_50': 'AP50'}
