"""Two processes that share the images get the numbers of one process with all images."""

import json
import multiprocessing
import os
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.evaluation.synthetic import as_samples, coco, federated

SHAPE = dict(num_images=9, num_classes=4, boxes=6, detections=60)
METRICS = {
    'LVISFixedMetric': dict(max_per_image=20, budget=40),
    'CocoPromptMetric': dict(classwise=True),
}


def build(name: str, path: str):
    from dinor1.evaluation import coco_metric, lvis_metric

    module = lvis_metric if name == 'LVISFixedMetric' else coco_metric
    return getattr(module, name)(path, **METRICS[name])


def share(rank: int, port: int, folder: str, samples: dict, queue) -> None:
    """One process of two: every second image; the first image is in both, as a padding sampler repeats it."""
    os.environ.update(MASTER_ADDR='localhost', MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE='2')
    torch.set_num_threads(1)  # a forked process has a single thread
    os.chdir(folder)  # MMEngine exchanges files below the working directory
    dist.init_process_group('gloo')
    found = {}
    for name, all_samples in samples.items():
        metric = build(name, f'{folder}/{name}.json')
        dealt = [*all_samples, all_samples[0]][rank::2]
        for sample in dealt:
            metric.process(None, [sample])
        found[name] = metric.evaluate(len(all_samples))
        # More processes than images: one has only a repeated image.
        metric.process(None, all_samples[:1])
        found[f'{name}, one image'] = metric.evaluate(1)
    queue.put((rank, found))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.filterwarnings('ignore')
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_metrics_of_two_processes_equal_those_of_one(tmp_path):
    samples, expected = {}, {}
    for name, make in zip(METRICS, (federated, coco), strict=True):
        content, results = make(np.random.default_rng(0), **SHAPE)
        path = tmp_path / f'{name}.json'
        path.write_text(json.dumps(content))
        samples[name] = as_samples(content, results)
        for title, chosen in ((name, samples[name]), (f'{name}, one image', samples[name][:1])):
            metric = build(name, str(path))
            metric.process(None, chosen)
            expected[title] = metric.evaluate(len(chosen))
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    # Fork, because importing everything again takes longer than all other tests of this folder.
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    arguments = (port, str(tmp_path), samples, queue)
    processes = [context.Process(target=share, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    for rank in range(2):
        assert found[rank].keys() == expected.keys()
        for title, metrics in expected.items():
            np.testing.assert_equal(found[rank][title], metrics)  # NaN for a class without ground truth
    assert expected['LVISFixedMetric']['lvis/AP'] != expected['LVISFixedMetric']['lvis/fixed_AP']
