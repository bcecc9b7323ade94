"""Tables of detectors under the prompt protocols."""

from dinor1.studies.detector_table import MEAN, detector_tables


def row(name, detector, **metrics):
    return dict(set=name, baseline=detector, metrics=metrics)


def test_detector_tables_average_domains_that_all_detectors_have():
    rows = [
        row('bees', 'lite', without_exemplar_AP50=0.5, without_exemplar_images=7.0, visual_g_4_AP50=0.25),
        row('bees', 'free', without_exemplar_AP50=0.1),
        row('cogs', 'lite', without_exemplar_AP50=0.3, plain_AP50=0.6, echo_AP50=0.7),
        row('cogs', 'free', without_exemplar_AP50=-1.0),  # no image with a second instance
        row('known', 'lite', without_exemplar_AP50=0.9),
        row('known', 'free', without_exemplar_AP50=0.8),
    ]
    first, second, third = detector_tables(rows, ['lite', 'free'], ['bees', 'cogs']).split('\n\n')
    assert first.splitlines()[2:] == [
        '| bees | 7 | 0 | 0.500 | 0.100 |',
        '| cogs | 0 | 0 | 0.300 | - |',
        '| known | 0 | 0 | 0.900 | 0.800 |',
        f'| {MEAN} (1) |  |  | **0.500** | **0.100** |',
    ]
    assert second.splitlines()[3] == '| cogs | 0 | 0 | 0.700 | 0.600 | - |'
    assert MEAN not in second  # a detector is missing
    assert third.splitlines()[2] == '| bees | - | 0.250 | - | - | - | - |'
