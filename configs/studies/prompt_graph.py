title = 'Nano on the novel categories of the shapes world, with and without the category graph'
arms = {
    'VIS-GDINO': dict(config='configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes-novel.py', options=[]),
    'VIS-GDINO, category graph': dict(
        config='configs/blocks/category_graph/vis-gdino_nano_graph_1xb8_6e_shapes-novel.py', options=[]
    ),
}
seeds = [0, 1, 2]
metrics = {'coco/bbox_mAP': 'AP, novel', 'coco/bbox_mAP_50': 'AP50, novel'}
note = """
Training shows the 12 base categories. The evaluation is on the 4 novel ones, with visual prompts from a separate split.
The graph links every category to its fill and its shape.
"""
