# The category graph of the shapes world: every fill and every shape is the parent of the four categories that have it
# in their names. The graph contains the novel categories too, but training uses no image of them.
shapes = ('circle', 'square', 'triangle', 'cross')
fills = ('solid', 'striped', 'checkered', 'outlined')
prompt_refiner = dict(
    type='CategoryGraphPrompts',
    graph=dict(names=[f'{fill} {shape}' for shape in shapes for fill in fills], parents='words'),
    dim=64,
    num_heads=4,
)
