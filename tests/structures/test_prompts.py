"""Prompt sets and banks."""

import pytest
import torch

from dinor1.structures import PromptBank, PromptBatch, PromptSet
from dinor1.utils.errors import InputError


def prompts(num=3, negative=None, mask=None, width=4):
    torch.manual_seed(num)
    return PromptSet.from_classes(torch.randn(num, width), [f'c{i}' for i in range(num)], mask, negative)


def token_set():
    """Prompts by token: class 0 has two tokens, class 1 has one; token 2 is a separator, token 4 is padding."""
    return PromptSet(
        embeddings=torch.arange(10.0).reshape(5, 2),
        names=('a', 'b'),
        labels=torch.tensor([0, 0, -1, 1, -1]),
        mask=torch.tensor([True, True, True, True, False]),
        groups=torch.tensor([1, 1, 1, 2, -2]),
        negative=torch.tensor([False, False]),
    )


def test_prompt_set_rejects_no_prompts():
    with pytest.raises(InputError, match='empty'):
        PromptSet.from_classes(torch.zeros(0, 4), [])
    with pytest.raises(InputError, match='empty'):
        prompts(mask=torch.zeros(3, dtype=torch.bool))


def test_prompt_set_rejects_fields_of_wrong_length():
    with pytest.raises(ValueError, match='mask'):
        prompts(mask=torch.ones(2, dtype=torch.bool))


def test_class_map_averages_the_tokens_of_a_class():
    scores = torch.tensor([[0.2, 0.4, 0.9, 0.5, 0.9]])
    torch.testing.assert_close(scores @ token_set().class_map(), torch.tensor([[0.3, 0.5]]))
    torch.testing.assert_close(token_set().class_embeddings(), torch.tensor([[1.0, 2.0], [6.0, 7.0]]))


def test_reported_leaves_out_negatives_and_classes_not_offered():
    shown = prompts(4, mask=torch.tensor([True, True, True, False]), negative=torch.tensor([False, True, False, False]))
    assert shown.reported.tolist() == [0, 2]


def test_prompt_batch_pads_sets_and_separates_groups():
    batch = PromptBatch.stack([token_set(), prompts(3, width=2)])
    assert batch.embeddings.shape == (2, 5, 2)
    attend = batch.attention_mask()
    expected = torch.tensor(
        [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]], dtype=torch.bool
    )
    assert torch.equal(attend[0], expected)
    assert torch.equal(attend[1], torch.eye(5, dtype=torch.bool))
    assert batch.position_ids().tolist() == [[0, 1, 2, 0, 0], [0] * 5]


def test_prompt_batch_shared_gives_all_images_the_same_prompts():
    batch = PromptBatch.shared(torch.randn(3, 4), 2)
    assert torch.equal(batch.embeddings[0], batch.embeddings[1])
    assert torch.equal(batch.attention_mask()[1], torch.eye(3, dtype=torch.bool))


def test_mix_takes_a_class_from_the_set_that_offers_it():
    """The zero row of a class that is not offered does not count as an embedding."""
    some = PromptSet.from_classes(torch.tensor([[0.0, 0.0], [0.0, 2.0]]), ['a', 'b'], torch.tensor([False, True]))
    other = PromptSet.from_classes(
        torch.tensor([[3.0, 0.0], [0.0, 0.0], [1.0, 1.0]]),
        ['a', 'b', 'c'],
        torch.tensor([True, False, False]),
        torch.tensor([True, False, False]),
    )
    mixed = some.mix(other)
    torch.testing.assert_close(mixed.embeddings, torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
    assert mixed.mask.tolist() == [True, True, False]
    assert mixed.negative.tolist() == [True, False, False]


def test_mix_averages_directions_and_norms():
    text = PromptSet.from_classes(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), ['a', 'b'])
    visual = PromptSet.from_classes(torch.tensor([[0.0, 4.0]]), ['a'], negative=torch.tensor([True]))
    mixed = text.mix(visual)
    # Class a: mean direction (1/2, 1/2) times the mean norm 3. Class b: the text embedding.
    torch.testing.assert_close(mixed.embeddings, torch.tensor([[1.5, 1.5], [0.0, 2.0]]))
    assert mixed.names == ('a', 'b')
    assert mixed.negative.tolist() == [False, False]


def test_mix_takes_spellings_of_a_name_as_one_class():
    text = PromptSet.from_classes(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), ['Cat ', 'dog'])
    visual = PromptSet.from_classes(torch.tensor([[0.0, 4.0], [1.0, 0.0]]), ['cat', 'cow'])
    mixed = text.mix(visual)
    assert mixed.names == ('Cat', 'dog', 'cow')
    # Mean direction (1/2, 1/2) times the mean norm 3.
    torch.testing.assert_close(mixed.embeddings, torch.tensor([[1.5, 1.5], [0.0, 2.0], [1.0, 0.0]]))


def test_to_casts_only_the_embeddings():
    moved = token_set().to(torch.float64)
    assert moved.embeddings.dtype == torch.float64
    assert moved.labels.dtype == torch.int64


class TestBank:
    bank = PromptBank(torch.arange(6.0).reshape(3, 2), ('x', 'y', 'z'), (4, 1, 2), 'f' * 64)

    def test_save_load_round_trip(self, tmp_path):
        self.bank.save(tmp_path / 'bank.safetensors')
        loaded = PromptBank.load(tmp_path / 'bank.safetensors', fingerprint='f' * 64)
        assert torch.equal(loaded.embeddings, self.bank.embeddings)
        assert (loaded.names, loaded.num_exemplars, loaded.fingerprint) == (('x', 'y', 'z'), (4, 1, 2), 'f' * 64)
        assert [p.name for p in tmp_path.iterdir()] == ['bank.safetensors']

    @pytest.mark.parametrize('character', ['\udcff', chr(0xD800)])
    def test_save_and_load_reject_paths_that_are_not_utf8(self, tmp_path, character):
        path = f'{tmp_path}/{character}.safetensors'
        with pytest.raises(InputError, match='not valid UTF-8; give another name'):
            self.bank.save(path)
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(InputError, match='no such prompt bank|not a readable safetensors file'):
            PromptBank.load(path)

    def test_merge_weights_classes_by_their_exemplars(self):
        other = PromptBank(torch.tensor([[4.0, 0.0], [9.0, 9.0]]), ('Z', 'w'), (2, 1), 'f' * 64)
        merged = PromptBank.merge([self.bank, other])
        assert (merged.names, merged.num_exemplars) == (('x', 'y', 'z', 'w'), (4, 1, 4, 1))
        # Class z: 2 exemplars of (4, 5) and 2 of (4, 0).
        expected = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 2.5], [9.0, 9.0]])
        torch.testing.assert_close(merged.embeddings, expected)
        assert PromptBank.merge([self.bank]) is self.bank

    def test_merge_joins_spellings_within_a_bank(self):
        bank = PromptBank(torch.tensor([[1.0], [4.0]]), ('a', 'A'), (2, 1), 'f' * 64)
        merged = PromptBank.merge([bank])
        assert (merged.names, merged.num_exemplars, merged.embeddings.tolist()) == (('a',), (3,), [[2.0]])

    def test_prompt_set_finds_classes_in_another_spelling(self):
        assert self.bank.prompt_set(['X', 'y ']).embeddings.tolist() == [[0.0, 1.0], [2.0, 3.0]]
        # Names that occur in several spellings are different classes.
        prompts = self.bank.prompt_set(['x', 'X'])
        assert prompts.mask.tolist() == [True, False]

    def test_load_rejects_bank_of_another_model(self, tmp_path):
        self.bank.save(tmp_path / 'bank.safetensors')
        with pytest.raises(InputError, match='another model'):
            PromptBank.load(tmp_path / 'bank.safetensors', fingerprint='0' * 64)

    def test_load_rejects_files_that_are_not_banks(self, tmp_path):
        from safetensors.torch import save_file

        with pytest.raises(InputError, match='no such prompt bank'):
            PromptBank.load(tmp_path / 'none.safetensors')
        (tmp_path / 'text.safetensors').write_text('hello')
        with pytest.raises(InputError, match='not a readable'):
            PromptBank.load(tmp_path / 'text.safetensors')
        save_file({'w': torch.zeros(1)}, tmp_path / 'other.safetensors')
        with pytest.raises(InputError, match='not a prompt bank'):
            PromptBank.load(tmp_path / 'other.safetensors')

    @pytest.mark.parametrize(
        ('changes', 'message'),
        [
            (dict(names=None), "no 'names'"),
            (dict(fingerprint=None), "no 'fingerprint'"),
            (dict(names='["x", '), 'Expecting value'),
            (dict(names='"xyz"'), 'names must be a list of non-empty strings'),
            (dict(names='["x", "y", 3]'), 'names must be a list of non-empty strings'),
            (dict(names='["x", "y"]'), '3 embeddings, 3 counts'),
            (dict(names='["x", "y", "x"]'), '2 distinct names'),
            (dict(num_exemplars='[1, 2, 0]'), 'num_exemplars must be a list of integers of at least 1'),
            (dict(num_exemplars='3'), 'num_exemplars must be a list'),
            (dict(embeddings=torch.zeros(3)), 'embeddings must be a matrix of floats, got shape (3,)'),
            (dict(embeddings=torch.zeros(3, 2, dtype=torch.int64)), 'embeddings must be a matrix of floats'),
            (dict(embeddings=torch.full((3, 2), torch.nan)), 'not finite'),
        ],
    )
    def test_load_rejects_damaged_bank(self, tmp_path, changes, message):
        from safetensors import safe_open
        from safetensors.torch import save_file

        path = tmp_path / 'bank.safetensors'
        self.bank.save(path)
        with safe_open(path, framework='pt') as file:
            fields = file.metadata() | dict(embeddings=file.get_tensor('embeddings')) | changes
        tensors = dict(embeddings=fields.pop('embeddings'))
        save_file(tensors, path, metadata={key: value for key, value in fields.items() if value is not None})
        with pytest.raises(InputError) as caught:
            PromptBank.load(path)
        assert str(caught.value).startswith(f'{path}: a damaged prompt bank (')
        assert message in str(caught.value)

    def test_prompt_set_follows_the_class_order_of_a_data_set(self):
        shown = self.bank.prompt_set(['z', 'unknown', 'x'])
        assert shown.mask.tolist() == [True, False, True]
        assert shown.reported.tolist() == [0, 2]
        assert torch.equal(shown.embeddings[[0, 2]], self.bank.embeddings[[2, 0]])
        with pytest.raises(InputError, match='none of the classes'):
            self.bank.prompt_set(['unknown'])

    def test_bank_rejects_no_names_and_repeated_names(self):
        with pytest.raises(InputError, match='no class'):
            PromptBank(torch.zeros(0, 2), (), (), '')
        with pytest.raises(ValueError, match='distinct'):
            PromptBank(torch.zeros(2, 2), ('a', 'a'), (1, 1), '')


def framed_text(names=('a', 'b', 'c')):
    """Prompts of a tokenised text: start token; for class i, i + 1 tokens and a separator; end token."""
    labels, groups = [-1], [0]
    for i in range(len(names)):
        labels += [i] * (i + 1) + [-1]
        groups += [i + 1] * (i + 2)
    labels, groups = [*labels, -1], [*groups, len(names) + 1]
    size = len(labels)
    return PromptSet(
        embeddings=torch.arange(2.0 * size).reshape(size, 2),
        names=tuple(names),
        labels=torch.tensor(labels),
        mask=torch.ones(size, dtype=torch.bool),
        groups=torch.tensor(groups),
        negative=torch.zeros(len(names), dtype=torch.bool),
    )


def test_split_keeps_classes_whole_and_repeats_start_and_end_tokens():
    text = framed_text()
    first, second = text.split(2)
    assert first.labels.tolist() == [-1, 0, -1, 1, 1, -1, -1]
    assert second.labels.tolist() == [-1, 2, 2, 2, -1, -1]
    assert first.names == second.names == text.names
    assert first.reported.tolist() == [0, 1]
    assert second.reported.tolist() == [2]
    whole = text.class_embeddings()
    assert torch.equal(first.class_embeddings() + second.class_embeddings(), whole)
    assert text.split(3) == [text]


def test_split_counts_offered_classes_only():
    offered = prompts(5, mask=torch.tensor([True, False, True, True, False]))
    first, second = offered.split(2)
    assert first.reported.tolist() == [0, 2]
    assert second.reported.tolist() == [3]
    assert len(first.embeddings) == 2
    assert len(second.embeddings) == 1


def test_concat_equals_one_text_of_all_names():
    long = framed_text('abcd')
    first, second = framed_text('ab'), framed_text('cd')
    joined = PromptSet.concat([first, second])
    assert joined.names == long.names
    assert joined.reported.tolist() == [0, 1, 2, 3]
    expected = torch.cat([first.class_embeddings(), second.class_embeddings()])
    assert torch.equal(joined.class_embeddings(), expected)
    # Only the start and end tokens of the first set are kept, and the sets share no group.
    assert len(joined.embeddings) == len(first.embeddings) + len(second.embeddings) - 2
    together = PromptBatch.stack([joined]).attention_mask()[0]
    of_class = joined.labels >= 0
    same_class = joined.labels[:, None] == joined.labels[None]
    assert torch.equal(together[of_class][:, of_class], same_class[of_class][:, of_class])


def test_concat_rejects_repeated_names():
    with pytest.raises(ValueError, match='more than one'):
        PromptSet.concat([framed_text('ab'), framed_text('bc')])


def test_nothing_reports_no_class():
    nothing = PromptSet.nothing(['a', 'b'], torch.ones(3, 4))
    assert nothing.embeddings.tolist() == [[0.0] * 4]
    assert nothing.reported.tolist() == []
    assert nothing.split(1) == [nothing]
