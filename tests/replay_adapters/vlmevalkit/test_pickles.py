"""No pickle that lies where upstream looks for one runs the code in it."""

import io
import pathlib
import pickle
from collections import OrderedDict, defaultdict

import numpy as np
import pytest

from replay_adapters.vlmevalkit import launcher
from replay_adapters.vlmevalkit.pickles import plain_values
from tests.replay_adapters.vlmevalkit.conftest import PICTURES, REPLAY, answers, write_run_file


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return pathlib.Path.touch, (self.mark,)


def test_numbers_texts_and_containers_come_back(tmp_path):
    counts = defaultdict(list, {"a": [1]})
    held = {np.int64(3): {"hit": 1, "log": "right"}, "x": (None, b"y", {1}, 2.5), "n": counts}
    held |= {"o": OrderedDict(a=np.float32(0.5), b=np.bool_(True))}
    for protocol in range(3, 6):
        found = plain_values(io.BytesIO(pickle.dumps(held, protocol=protocol)))
        assert found == held
        assert type(next(iter(found))) is int


def test_whatever_else_a_pickle_holds_is_refused_before_it_runs(tmp_path):
    mark = tmp_path / "ran"
    whole = pickle.dumps({1: Payload(mark)})
    for content in (whole, whole[:-5], b"", b"no pickle", pickle.dumps(print)):
        with pytest.raises(pickle.UnpicklingError):
            plain_values(io.BytesIO(content))
    assert not mark.exists()


NAMES = (
    "01_pictures.pkl",
    "{model}_pictures_PREV.pkl",
    "{model}_pictures_checkpoint.pkl",
    "{model}_pictures_structs.pkl",
    "{model}_pictures_exact_matching_result.pkl",
)


@pytest.fixture(scope="module")
def attacked(vlmeval, tiny_model, sets, tmp_path_factory):
    """A run from answers to scores, with a payload at every name; its folder and its output."""
    work = tmp_path_factory.mktemp("attacked")
    file = write_run_file(work / "run.json", {"tiny": tiny_model(**REPLAY)}, PICTURES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMUData", str(sets.data))
        words = ["--config", str(file), "--work-dir", str(work)]
        (model,) = launcher.prepare(words).models
    folder = work / model
    folder.mkdir()
    for name in NAMES:
        content = pickle.dumps({"1": Payload(work / "ran")})
        (folder / name.format(model=model)).write_bytes(content)
    ended = vlmeval(*words, "--judge", "exact_matching", module="replay_adapters.vlmevalkit")
    return work, model, ended


def test_a_run_beside_payloads_runs_none_of_them(attacked):
    work, model, ended = attacked
    assert ended.returncode == 0, ended.stdout[-5000:]
    assert not (work / "ran").exists()
    for name in (NAMES[0], NAMES[1], NAMES[4]):  # those that upstream reads for a local model
        assert (work / model / f"{name.format(model=model)}.aside").exists(), name
    ours = answers(work, "tiny", "pictures")
    assert len(ours.lines) == 12
    for line in ours.lines:
        assert line["predictions"] == [ours.predictions[line["index"]]]
        assert line["scores"] in ([0.0], [1.0])


def test_another_models_pickles_are_upstreams_matter(harness, tmp_path):
    from vlmeval.smp import load

    path = tmp_path / "stock" / "stock_SET_result.pkl"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps({1: pathlib.PurePosixPath("a")}))
    assert load(str(path)) == {1: pathlib.PurePosixPath("a")}
    path.write_bytes(b"")
    with pytest.raises(EOFError):
        load(str(path))


def test_the_patched_symbols_are_there(harness):
    """And read pickles through the name that is patched."""
    import inspect

    from vlmeval.smp import file

    assert "return pickle.load(open(pth, 'rb'))" in inspect.getsource(file.load)
    for name in ("mmbench_video", "video_holmes", "videomme", "videott"):
        module = __import__(f"vlmeval.dataset.{name}", fromlist=["pickle"])
        assert "video_data = pickle.load(file)" in inspect.getsource(module)
        assert module.pickle.load is plain_values
