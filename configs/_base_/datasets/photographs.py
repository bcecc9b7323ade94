# Training data for detectors of photographs: photo_mix without its novel categories, 22 sets of rfmix, and coco_mini,
# with strong augmentation. Evaluated on the novel categories of photo_mix.
# Sources that state no licence are left out, so that the weights can be published: 1,749 of 2,863 images remain. For
# all of them: --cfg-options train_dataloader.dataset.datasets.0.exclude_sources=[]
# Left out for zero-shot evaluation: raccoon, aquarium, chess_pieces, bccd, na_mushrooms, thermal_dogs_and_people, and
# eight sets of rfmix. fruit is left out because nearly all its images show novel categories.
_base_ = './photo_mix.py'

novel = dict(exclude_categories=(), only_categories=_base_.novel_categories)
val_dataloader = dict(dataset=novel)
test_dataloader = dict(dataset=novel)
prompt_dataset = novel

rfmix = (
    'ant_empire',
    'bolts_washers',
    'cacao_pods',
    'carton_boxes',
    'datamatrix',
    'desk_bottles',
    'empire_state',
    'forklifts_conveyors',
    'frc_cones_cubes',
    'handwritten_digits',
    'iot_boards',
    'microcontrollers',
    'parking_gate',
    'railway_wagons',
    'room_amenities',
    'ships',
    'signs_and_crossings',
    'sudoku',
    'traffic_cameras',
    'tree_trunk_limbs',
    'video_vehicles',
    'workout_equipment',
)
# In these sets, some instances have no box.
not_exhaustive = ('ant_empire', 'handwritten_digits', 'room_amenities', 'traffic_cameras')
# Categories of rfmix that are novel in photo_mix are left out.
novel_in_rfmix = dict(ant_empire=['apple', 'banana'], room_amenities=['sink'])

small_set = dict(
    type='CocoPromptDataset',
    ann_file='annotations/train.json',
    data_prefix=dict(img='images/'),
    federated=True,
    filter_cfg=dict(filter_empty_gt=False),
    pipeline=_base_.strong_pipeline,
    return_classes=True,
)
rfmix_sets = [
    dict(
        **small_set,
        data_root='{{$DINOR1_DATA:data}}/rfmix/' + name,
        not_exhaustive=name in not_exhaustive,
        exclude_categories=novel_in_rfmix.get(name, ()),
    )
    for name in rfmix
]
photo_mix = {
    **_base_.train_dataloader.dataset,
    'exclude_sources': ('freiburg_groceries', 'fod_a'),
    'pipeline': _base_.strong_pipeline,
}
coco_mini = dict(
    **small_set,
    data_root='{{$DINOR1_DATA:data}}/coco_mini',
    exclude_categories='../photo_mix/' + _base_.novel_categories,
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[photo_mix, coco_mini, *rfmix_sets],
        ignore_keys=['classes', 'palette'],
    ),
)
