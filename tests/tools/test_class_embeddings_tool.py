"""The tool that embeds class names."""

import torch

from dinor1.models.prompts import WordHashModel, read_class_embeddings


def test_tool_embeds_the_names_of_files(call, tmp_path):
    (tmp_path / 'names.txt').write_text('red circle\n\nblue circle\n')
    (tmp_path / 'a.json').write_text('{"categories": [{"name": "blue circle"}, {"name": "cat"}]}')
    out = tmp_path / 'out.safetensors'
    options = ('--language-model', 'WordHashModel', '--out', out)
    outcome = call('model_converters/class_embeddings', tmp_path / 'names.txt', tmp_path / 'a.json', *options)
    assert outcome.status == 0, outcome.err
    assert '3 class names' in outcome.out
    names, embeddings = read_class_embeddings(out)
    assert names == ['red circle', 'blue circle', 'cat']
    torch.testing.assert_close(embeddings, WordHashModel().class_embeddings(names))
    outcome = call('model_converters/class_embeddings', tmp_path / 'missing.txt', '--out', tmp_path / 'b.safetensors')
    assert (outcome.status, outcome.err.count('\n')) == (2, 1)
    assert 'missing.txt: no such file' in outcome.err
    assert not (tmp_path / 'b.safetensors').exists()
