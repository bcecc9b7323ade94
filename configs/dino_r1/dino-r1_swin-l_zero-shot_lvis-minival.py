# Swin-L trained on Objects365, evaluated on LVIS v1 minival with visual-generic prompts from LVIS's training set.
# For checkpoints of dino-r1_swin-l_8xb4_6e_o365 and of its VIS-GDINO baseline.
_base_ = [
    '../_base_/models/dino_r1_swin-l.py',
    '../_base_/datasets/lvis_minival_detection.py',
    '../_base_/schedules/evaluation.py',
    '../_base_/default_runtime.py',
]

# Fixed AP limits the detections per class, not per image; standard AP uses the best 300 per image. 80 classes are
# offered per pass, as many as COCO has.
model = dict(test_cfg=dict(max_per_img=1000, chunked_size=80))
