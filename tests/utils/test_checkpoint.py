"""Loading weights that fit the model, and one-line errors for other files."""

import copy
import pickle
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import Sequential
from mmengine.optim import OneCycleLR

from dinor1.utils.checkpoint import check_checkpoint, load_model, load_weights, read_state_dict
from dinor1.utils.checkpoint_file import load_file, load_url
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


def test_load_model_loads_weights_in_evaluation_mode(cfg, model_files, state, capsys):
    model = load_model(cfg, model_files.checkpoint)
    assert not any(module.training for module in model.modules())
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert capsys.readouterr().out == ''
    # The config can be used again.
    assert fingerprint(load_model(cfg, model_files.checkpoint), whole=True) == fingerprint(model, whole=True)


def test_load_model_formats_of_checkpoint(cfg, state, tmp_path, capfd):
    expected = fingerprint(load_model(cfg, save(state, tmp_path)), whole=True)
    # The state of a schedule contains a function.
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
    # MMEngine does not fall back to the unsafe mode, which it would announce.
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
def test_load_model_rejects_another_architecture(cfg, state, tmp_path, change, message):
    change(state)
    path = save(state, tmp_path)
    with pytest.raises(InputError, match='another architecture') as error:
        load_model(cfg, path)
    assert message in str(error.value)
    assert str(error.value).startswith(path)
    assert '\n' not in str(error.value)


def test_check_checkpoint_rejects_nan(cfg, state, build_tiny, tmp_path):
    state['level_embed'][0, 0] = torch.nan
    path = save(state, tmp_path)
    with pytest.raises(InputError, match='1 of its weights hold NaN, such as level_embed'):
        load_model(cfg, path)
    with pytest.raises(InputError, match='hold NaN'):
        check_checkpoint(build_tiny(), path, partial=True)


def test_check_checkpoint_partial_accepts_missing_weights(build_tiny, state, wide_files, tmp_path):
    model = build_tiny()
    state.pop('level_embed')
    check_checkpoint(model, save(state, tmp_path), partial=True)
    with pytest.raises(InputError, match='another architecture'):
        check_checkpoint(model, save({'backbone_of_another.weight': torch.zeros(2)}, tmp_path), partial=True)


def test_load_weights_missing_and_surplus_prefixes(build_tiny, state, tmp_path):
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


def test_check_checkpoint_unreachable_address_is_one_line_error(build_tiny, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    address = 'http://127.0.0.1:9/weights.pth'  # the port of "discard", where nothing listens
    with pytest.raises(InputError) as error:
        check_checkpoint(build_tiny(), address, partial=True)
    assert str(error.value).startswith(f'{address}: cannot be fetched (')
    assert str(error.value).endswith('such as --cfg-options load_from=FILE')


@pytest.mark.parametrize('lost', ['meta', 'message_hub', 'epoch'])
def test_check_checkpoint_resume_rejects_weights_alone(build_tiny, state, tmp_path, lost):
    meta = dict(epoch=1, iter=5)
    content = dict(meta=meta, optimizer=dict(state={}), message_hub=dict(a=1), state_dict=build_tiny().state_dict())
    path = str(tmp_path / 'epoch_1.pth')
    torch.save(content, path)
    check_checkpoint(build_tiny(), path, resume=True)
    (meta if lost in meta else content).pop(lost)
    torch.save(content, path)
    check_checkpoint(build_tiny(), path)
    with pytest.raises(InputError, match=f'has no .*{lost}, so no run can be resumed'):
        check_checkpoint(build_tiny(), path, resume=True)


def truncated(data):
    return data[: len(data) // 2]


def flipped(data):
    """Damage 200 bytes at the beginning of the file, which contains the pickle."""
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
        # Unpickling these raises an IndexError and a ModuleNotFoundError.
        lambda data: b'\x80\x02}.00',
        lambda data: b'\x80\x02cno.such_module\nName\n.',
    ],
)
def test_read_state_dict_rejects_damaged_file(model_files, tmp_path, damage, capfd):
    path = tmp_path / 'damaged.pth'
    with open(model_files.checkpoint, 'rb') as file:
        path.write_bytes(damage(file.read()))
    with pytest.raises(InputError, match='not a checkpoint') as error:
        read_state_dict(str(path))
    assert str(error.value).startswith(str(path))
    assert '\n' not in str(error.value)
    assert ''.join(capfd.readouterr()) == ''


@pytest.mark.parametrize('content', [[1, 2], dict(state_dict=[1]), dict(epoch=3), torch.zeros(2)])
def test_read_state_dict_rejects_file_without_weights(tmp_path, content):
    path = tmp_path / 'other.pth'
    torch.save(content, path)
    with pytest.raises(InputError, match='not a checkpoint with a state_dict'):
        read_state_dict(str(path))


def test_read_state_dict_rejects_missing_file(tmp_path, model_files):
    shutil.copy(model_files.checkpoint, tmp_path / 'there.pth')
    read_state_dict(str(tmp_path / 'there.pth'))
    for path in (tmp_path / 'absent.pth', tmp_path):
        with pytest.raises(InputError, match='no such checkpoint'):
            read_state_dict(str(path))


# ------------------------------------------------------------------------ files that would run code


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), 'w')


@pytest.fixture
def hostile(tmp_path, state):
    """``hostile(**content)`` writes a checkpoint with a payload; the payload must never have run."""
    marker = tmp_path / 'it-ran'

    def write(legacy=False, **content):
        path = tmp_path / 'hostile.pth'
        content = dict(state_dict=state, meta=dict(epoch=1, iter=1), message_hub=dict(a=1)) | content
        torch.save(content | dict(note=Payload(marker)), path, _use_new_zipfile_serialization=not legacy)
        return path

    yield write
    assert not marker.exists()


def test_payload_runs_in_unsafe_mode(tmp_path):
    """The tests below rely on this."""
    torch.save(Payload(tmp_path / 'it-ran'), tmp_path / 'payload.pth')
    torch.load(tmp_path / 'payload.pth', weights_only=False).close()
    assert (tmp_path / 'it-ran').exists()


@pytest.mark.parametrize('legacy', [False, True])
def test_load_never_runs_code_of_checkpoint(cfg, hostile, legacy):
    path = hostile(legacy)
    message = (
        'one with Python objects, which are not loaded' if legacy else 'holds Python objects .*open.*could run any'
    )
    for load in (read_state_dict, lambda path: load_model(cfg, path), lambda path: check_checkpoint(None, path)):
        with pytest.raises(InputError, match=message):
            load(str(path))


def test_mmengine_does_not_fall_back_to_the_unsafe_mode(hostile, tmp_path, monkeypatch):
    """``load_from``, ``--resume`` and ``init_cfg`` use MMEngine's functions, for files and for addresses."""
    from mmengine.runner import CheckpointLoader
    from mmengine.runner.checkpoint import load_checkpoint

    path = hostile()
    with pytest.raises(InputError, match='could run any code'):
        load_checkpoint(torch.nn.Linear(1, 1), str(path))
    layer = Sequential(torch.nn.Linear(1, 1), init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    with pytest.raises(InputError, match='could run any code'):
        layer.init_weights()
    # Load from an address; a file in the folder of downloads is not downloaded again.
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    (tmp_path / 'hub/checkpoints').mkdir(parents=True)
    shutil.copy(path, tmp_path / 'hub/checkpoints/hostile.pth')
    with pytest.raises(InputError, match='could run any code'):
        CheckpointLoader.load_checkpoint('https://example.invalid/hostile.pth', map_location='cpu')


def test_load_file_accepts_what_mmengine_stores(tmp_path):
    """A checkpoint of MMEngine contains logs, schedules, and NumPy's scalars and arrays."""
    from mmengine.logging import HistoryBuffer
    from mmengine.optim import OptimWrapper

    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    optimizer = OptimWrapper(torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]))
    schedule = OneCycleLR(optimizer, eta_max=0.1, total_steps=10)
    content = dict(
        state_dict=dict(w=torch.ones(2, dtype=torch.bfloat16)),
        meta=dict(epoch=1, iter=2, dataset_meta=dict(classes=('a', 'b')), seed=np.int64(3)),
        message_hub=dict(log_scalars=dict(loss=buffer), runtime_info=dict(best=np.float32(0.5), shape=np.arange(3))),
        optimizer=optimizer.state_dict(),
        param_schedulers=[schedule.state_dict()],
    )
    torch.save(content, tmp_path / 'a.pth')
    loaded = load_file(tmp_path / 'a.pth')
    assert loaded['message_hub']['log_scalars']['loss'].mean() == 1.5
    assert loaded['message_hub']['runtime_info']['shape'].tolist() == [0, 1, 2]
    assert loaded['meta']['seed'] == 3


def test_load_file_rejects_getattr_of_other_attributes(tmp_path):
    """Methods such as ``__init__``, from which the names of a module can be reached, are not allowed."""

    class Reach:
        def __reduce__(self):
            from mmengine.logging import HistoryBuffer

            return getattr, (HistoryBuffer, '__init__')

    torch.save(dict(state_dict={}, note=Reach()), tmp_path / 'a.pth')
    with pytest.raises((InputError, pickle.UnpicklingError), match='not allowed|could run any code'):
        load_file(tmp_path / 'a.pth')


def test_read_state_dict_rejects_compressed_archive(model_files, tmp_path, monkeypatch):
    """Checkpoints of torch are not compressed, and a compressed file may fill the memory."""
    with zipfile.ZipFile(model_files.checkpoint) as source, zipfile.ZipFile(tmp_path / 'bomb.pth', 'w') as bomb:
        for entry in source.infolist():
            bomb.writestr(entry.filename, source.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match='bomb.pth: a compressed archive'):
        read_state_dict(str(tmp_path / 'bomb.pth'))
    # A downloaded file is checked, too.
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    (tmp_path / 'hub/checkpoints').mkdir(parents=True)
    shutil.copy(tmp_path / 'bomb.pth', tmp_path / 'hub/checkpoints/bomb.pth')
    with pytest.raises(InputError, match='bomb.pth: a compressed archive'):
        read_state_dict('https://example.invalid/bomb.pth')


def test_read_state_dict_rejects_archive_with_overlapping_entries(tmp_path):
    """Many entries that share the bytes of one fill the memory without compression."""
    path = tmp_path / 'overlapping.pth'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data/0', bytes(10_000))
        (first,) = archive.filelist
        for number in range(1, 20):
            entry = copy.copy(first)
            entry.filename = f'archive/data/{number}'
            archive.filelist.append(entry)
    assert path.stat().st_size < 20_000
    with pytest.raises(InputError, match=r'overlapping.pth: a compressed archive'):
        read_state_dict(str(path))


def test_load_url_downloads_once(state, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    source = Path(save(state, tmp_path))
    for _ in range(2):
        loaded = load_url(source.as_uri(), progress=False)['state_dict']
        assert all(torch.equal(loaded[name], value) for name, value in state.items())
        source.unlink(missing_ok=True)


def test_read_state_dict_rejects_file_larger_than_memory(tmp_path):
    """The file is sparse and takes no space on the disk."""
    with open(tmp_path / 'huge.pth', 'wb') as file:
        file.truncate(2**43)
    with pytest.raises(InputError, match='8192.0 GiB, and this machine has'):
        read_state_dict(str(tmp_path / 'huge.pth'))


def test_load_model_rejects_integer_weights(cfg, state, tmp_path):
    path = tmp_path / 'integers.pth'
    torch.save(dict(state_dict={key: value.to(torch.int64) for key, value in state.items()}), path)
    with pytest.raises(InputError, match='another type, such as .*, torch.int64 instead of torch.float32'):
        load_model(cfg, str(path))
    # Half precision is accepted.
    torch.save(dict(state_dict={k: v.half() if v.is_floating_point() else v for k, v in state.items()}), path)
    load_model(cfg, str(path))
