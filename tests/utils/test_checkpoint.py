"""Loading weights: exactly those of the architecture, and one line about any other file."""

import random
import shutil

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OneCycleLR

from dinor1.utils.checkpoint import check_checkpoint, load_model, load_weights, read_state_dict
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint


@pytest.fixture
def cfg(model_files):
    return Config.fromfile(model_files.config)


@pytest.fixture
def state(model_files):
    return torch.load(model_files.checkpoint, weights_only=True)['state_dict']


def save(state, tmp_path):
    path = str(tmp_path / 'changed.pth')
    torch.save(dict(state_dict=state), path)
    return path


def test_model_has_the_weights_in_evaluation_mode(cfg, model_files, state, capsys):
    model = load_model(cfg, model_files.checkpoint)
    assert not any(module.training for module in model.modules())
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert capsys.readouterr().out == ''
    # The config is not spoilt by building from it.
    assert fingerprint(load_model(cfg, model_files.checkpoint), whole=True) == fingerprint(model, whole=True)


def test_forms_of_a_checkpoint(cfg, state, tmp_path, capfd):
    expected = fingerprint(load_model(cfg, save(state, tmp_path)), whole=True)
    # A schedule's state holds a function.
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedulers = [OneCycleLR(optimizer, eta_max=1.0, total_steps=2).state_dict()]
    for content in (
        state,
        dict(state_dict={f'module.{key}': value for key, value in state.items()}),
        dict(state_dict=state, param_schedulers=schedulers),
    ):
        path = tmp_path / 'other.pth'
        torch.save(content, path)
        assert fingerprint(load_model(cfg, str(path)), whole=True) == expected
    # No fallback to a loader that runs code from the file, which MMEngine would announce.
    assert 'weights_only' not in ''.join(capfd.readouterr())


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.pop('level_embed'), '1 missing, such as level_embed'),
        (lambda s: s.update(level_embd=s['level_embed']), '1 unknown, such as level_embd'),
        (
            lambda s: s.update(level_embed=s['level_embed'][:, :8]),
            '1 of another shape, such as level_embed (3, 8) instead of (3, 32)',
        ),
        (lambda s: s.clear(), 'missing, such as'),
    ],
)
def test_another_architecture_is_refused(cfg, state, tmp_path, change, message):
    change(state)
    path = save(state, tmp_path)
    with pytest.raises(InputError, match='another architecture') as error:
        load_model(cfg, path)
    assert message in str(error.value)
    assert str(error.value).startswith(path)
    assert '\n' not in str(error.value)


def test_weights_of_a_diverged_training_are_refused(cfg, state, build_tiny, tmp_path):
    state['level_embed'][0, 0] = torch.nan
    path = save(state, tmp_path)
    with pytest.raises(InputError, match='1 of its weights hold NaN, such as level_embed'):
        load_model(cfg, path)
    with pytest.raises(InputError, match='hold NaN'):
        check_checkpoint(build_tiny(), path, partial=True)


def test_weights_to_start_from_may_fit_in_part(build_tiny, state, wide_files, tmp_path):
    model = build_tiny()
    state.pop('level_embed')
    check_checkpoint(model, save(state, tmp_path), partial=True)
    with pytest.raises(InputError, match='another architecture'):
        check_checkpoint(model, save({'backbone_of_another.weight': torch.zeros(2)}, tmp_path), partial=True)


def test_named_parts_alone_may_be_missing_or_left_over(build_tiny, state, tmp_path):
    model = build_tiny(seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    kept = {key for key in state if key.startswith('prompt_encoder.')}
    path = save({key: value for key, value in state.items() if key not in kept} | {'old.ids': torch.zeros(2)}, tmp_path)
    load_weights(model, path, missing=('prompt_encoder.',), surplus=('old.',))
    assert kept
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] if key in kept else state[key]), key
    with pytest.raises(InputError, match=f'{len(kept)} missing, such as prompt_encoder'):
        load_weights(model, path, surplus=('old.',))
    with pytest.raises(InputError, match=r'1 unknown, such as old\.ids'):
        load_weights(model, path, missing=('prompt_encoder.',))


def test_an_address_that_cannot_be_reached_is_one_line(build_tiny, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    address = 'http://127.0.0.1:9/weights.pth'  # the port of "discard", where nothing listens
    with pytest.raises(InputError) as error:
        check_checkpoint(build_tiny(), address, partial=True)
    assert str(error.value).startswith(f'{address}: cannot be fetched (')
    assert str(error.value).endswith('such as --cfg-options load_from=FILE')


@pytest.mark.parametrize('lost', ['meta', 'message_hub', 'epoch'])
def test_a_run_is_not_resumed_from_weights_alone(build_tiny, state, tmp_path, lost):
    meta = dict(epoch=1, iter=5)
    content = dict(meta=meta, optimizer=dict(state={}), message_hub=dict(a=1), state_dict=build_tiny().state_dict())
    path = str(tmp_path / 'epoch_1.pth')
    torch.save(content, path)
    check_checkpoint(build_tiny(), path, resume=True)
    (meta if lost in meta else content).pop(lost)
    torch.save(content, path)
    check_checkpoint(build_tiny(), path)
    with pytest.raises(InputError, match=f'has no .*{lost}, so that no run can be resumed'):
        check_checkpoint(build_tiny(), path, resume=True)


def truncated(data):
    return data[: len(data) // 2]


def flipped(data):
    """Damage 200 bytes of the file's beginning, where the pickle is."""
    generator, changed = random.Random(0), bytearray(data)
    for _ in range(200):
        changed[generator.randrange(40_000)] ^= 0xFF
    return bytes(changed)


@pytest.mark.parametrize(
    'damage',
    [
        lambda data: b'',
        lambda data: data[:1],
        truncated,
        flipped,
        lambda data: b'this is text\n' * 50,
        lambda data: bytes(range(256)),
        # The unpickler stumbles over these with an IndexError and a ModuleNotFoundError.
        lambda data: b'\x80\x02}.00',
        lambda data: b'\x80\x02cno.such_module\nName\n.',
    ],
)
def test_damaged_files_are_refused(model_files, tmp_path, damage, capfd):
    path = tmp_path / 'damaged.pth'
    with open(model_files.checkpoint, 'rb') as file:
        path.write_bytes(damage(file.read()))
    with pytest.raises(InputError, match='not a checkpoint') as error:
        read_state_dict(str(path))
    assert str(error.value).startswith(str(path))
    assert '\n' not in str(error.value)
    assert ''.join(capfd.readouterr()) == ''


@pytest.mark.parametrize('content', [[1, 2], dict(state_dict=[1]), dict(epoch=3), torch.zeros(2)])
def test_files_without_weights_are_refused(tmp_path, content):
    path = tmp_path / 'other.pth'
    torch.save(content, path)
    with pytest.raises(InputError, match='not a checkpoint with a state_dict'):
        read_state_dict(str(path))


def test_missing_files_are_refused(tmp_path, model_files):
    shutil.copy(model_files.checkpoint, tmp_path / 'there.pth')
    read_state_dict(str(tmp_path / 'there.pth'))
    for path in (tmp_path / 'absent.pth', tmp_path):
        with pytest.raises(InputError, match='no such checkpoint'):
            read_state_dict(str(path))
