title = 'Graph transformer on small SBM graphs: communities of 5 to 19 nodes, 400 training graphs, one CPU core'
_cluster = 'configs/blocks/graph_transformer/sbm_cluster_short.py'
_pattern = 'configs/blocks/graph_transformer/sbm_pattern_short.py'
_without = ['model.pe_dim=0']
arms = {
    'CLUSTER, batch norm, Laplacian codes': dict(config=_cluster, options=[]),
    'CLUSTER, batch norm, no codes': dict(config=_cluster, options=_without),
    'CLUSTER, layer norm, Laplacian codes': dict(config=_cluster, options=['model.norm=layer']),
    'PATTERN, batch norm, Laplacian codes': dict(config=_pattern, options=[]),
    'PATTERN, batch norm, no codes': dict(config=_pattern, options=_without),
}
seeds = [0, 1, 2]
metrics = {'sbm/accuracy': 'accuracy, %', 'sbm/loss': 'loss'}
note = """
Accuracy of the last validation, 100 graphs. Published at full size, arXiv 2012.09699: CLUSTER 73.17, without codes
72.14, with layer norm 70.65; PATTERN 84.81, without codes 83.95. Chance is 16.7 and 50.
"""
