"""Published checkpoint forms in, foreign and harmful files out."""

import pickle
import warnings

import pytest
import torch
from safetensors.torch import save_file
from support.named_weights import named_weights

from relo.errors import TrainingError
from relo.models import create_model, load_weights
from relo.models.lbag import HEAD_NAMES

TINY = {"num_res": 1, "width": 4}


@pytest.fixture
def donor():
    torch.manual_seed(5)
    return create_model("lbag", **TINY).state_dict()


FORMS = {
    "bare": lambda sd: sd,
    "mimo": lambda sd: {"model": sd, "optimizer": {"lr": 1e-4}, "epoch": 3},
    "lbag": lambda sd: {"state_dict": {"model": sd}, "global_step": 7, "optimizer_states": [{}]},
    "basicsr": lambda sd: {"params": sd},
    "plain lightning-like": lambda sd: {"state_dict": sd},
    "data parallel": lambda sd: {"state_dict": {f"module.{name}": tensor for name, tensor in sd.items()}},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("legacy", [False, True])
def test_every_published_form_is_read(form, legacy, donor, tmp_path):
    path = tmp_path / "weights.pkl"
    torch.save(FORMS[form](donor), path, _use_new_zipfile_serialization=not legacy)
    model = create_model("lbag", **TINY)
    assert load_weights(model, path) == ()
    assert all(torch.equal(tensor, donor[name]) for name, tensor in model.state_dict().items())


def test_mappings_and_safetensors_are_read(donor, tmp_path):
    save_file(donor, tmp_path / "w.safetensors")
    save_file(donor, tmp_path / "w.bin")
    for source in (donor, {"model": donor}, tmp_path / "w.safetensors", str(tmp_path / "w.bin")):
        model = create_model("lbag", **TINY)
        load_weights(model, source)
        assert all(torch.equal(tensor, donor[name]) for name, tensor in model.state_dict().items())


def test_lbag_plus_takes_mimo_unet_plus_without_its_heads():
    torch.manual_seed(6)
    donor = create_model("mimo_unet_plus").state_dict()
    model = create_model("lbag")
    fresh = {name: model.state_dict()[name].clone() for name in HEAD_NAMES}
    kept = load_weights(model, {"model": donor})
    assert set(kept) == set(HEAD_NAMES)
    state = model.state_dict()
    taken = [name for name in state if name not in kept]
    assert len(taken) == 526
    assert all(torch.equal(state[name], donor[name]) for name in taken)
    assert all(torch.equal(state[name], fresh[name]) for name in kept)


def test_m2aenet_starts_from_nafnet_and_restores_as_it_does():
    options = {"width": 8, "enc_blocks": [1, 2], "middle_blocks": 1, "dec_blocks": [1, 1]}
    simple, model = create_model("nafnet", **options).eval(), create_model("m2aenet", **options).eval()
    load_weights(simple, named_weights(simple.state_dict(), 0.5, torch.float32))
    kept = load_weights(model, {"params": simple.state_dict()})
    assert kept == tuple(
        name for name in model.state_dict() if name.startswith(("predictor.", "analyzer.")) or ".dconv." in name
    )
    assert len(kept) == 12 + 2 + 2 * 2
    blur = torch.rand(1, 3, 12, 16)  # without padding, where the mask is 0
    with torch.inference_mode():
        everywhere = model(blur, mask=torch.ones(1, 1, 6, 8)).image
        torch.testing.assert_close(everywhere, simple(blur).image, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("missing", ["intro.weight", "encoders.1.0.conv1.bias"])
def test_a_warm_start_is_strict_about_all_that_it_takes(missing):
    options = {"width": 8, "enc_blocks": [1, 1], "middle_blocks": 0, "dec_blocks": [1, 1]}
    state = create_model("nafnet", **options).state_dict()
    model = create_model("m2aenet", **options)
    del state[missing]
    with pytest.raises(TrainingError, match=rf"1 missing \({missing}\)$|1 missing \({missing}\)\. "):
        load_weights(model, state)
    whole = model.state_dict()
    del whole["analyzer.weight"]
    with pytest.raises(TrainingError, match=r"1 missing \(analyzer.weight\)"):
        load_weights(model, whole)


def test_lbag_weights_do_not_fit_mimo_unet_plus(donor):
    model = create_model("mimo_unet_plus", **TINY)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(TrainingError, match=r"6 of another shape \(feat_extract.5.main.0.weight is \(4, "):
        load_weights(model, donor)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_strict_errors_name_the_first_keys(donor, tmp_path):
    state = dict(donor)
    state["extra.weight"] = state.pop("FAM1.merge.main.0.bias")
    path = tmp_path / "w.pth"
    torch.save(state, path)
    with pytest.raises(TrainingError) as caught:
        load_weights(create_model("lbag", **TINY), path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "1 missing (FAM1.merge.main.0.bias)" in text
    assert "1 unknown (extra.weight)" in text
    assert "\n" not in text


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_runs_code_runs_nothing(tmp_path):
    witness, path = tmp_path / "executed", tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": Bomb(witness)}))
    with pytest.raises(TrainingError, match="never loaded"):
        load_weights(create_model("lbag", **TINY), path)
    torch.save({"model": Bomb(witness)}, path)
    with pytest.raises(TrainingError, match="never loaded"):
        load_weights(create_model("lbag", **TINY), path)
    assert not witness.exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 60, 0.5])
def test_truncated_files_are_one_line(name, keep, donor, tmp_path):
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save(donor, path)
    else:
        save_file(donor, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(TrainingError) as caught:
        load_weights(create_model("lbag", **TINY), path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [[1, 2], {"epoch": 3}, {"model": "text"}, {"a": torch.zeros(1), "b": 3}, torch.zeros(2)]
)
def test_files_without_a_state_dict_are_refused(content, tmp_path):
    path = tmp_path / "w.pt"
    torch.save(content, path)
    with pytest.raises(TrainingError):
        load_weights(create_model("lbag", **TINY), path)


def test_a_mapping_that_holds_itself_is_refused(tmp_path):
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(TrainingError, match="only wrappings"):
        load_weights(create_model("lbag", **TINY), tmp_path / "w.pt")


@pytest.mark.parametrize("protocol", [2, 4])
def test_how_torch_finds_the_pickle_is_not_told_to_the_user(protocol, tmp_path, recwarn):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
    with pytest.raises(TrainingError, match="no readable tensors"):
        load_weights(create_model("lbag", **TINY), tmp_path / "w.pkl")
    assert not recwarn.list


def nested(tensor):
    with warnings.catch_warnings():  # that torch may change them
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([tensor, tensor[:1]])


@pytest.mark.parametrize(
    "change",
    [
        torch.Tensor.to_sparse,
        nested,
        lambda tensor: tensor.to("meta"),
        lambda tensor: tensor.to(torch.complex64),
    ],
)
def test_unusual_tensors_are_refused(change, donor, tmp_path):
    donor["FAM2.merge.main.0.bias"] = change(donor["FAM2.merge.main.0.bias"])
    torch.save(donor, tmp_path / "w.pt")
    with pytest.raises(TrainingError, match=r"w.pt: FAM2.merge.main.0.bias is sparse"):
        load_weights(create_model("lbag", **TINY), tmp_path / "w.pt")


def test_text_and_missing_files_are_refused(tmp_path):
    (tmp_path / "w.pt").write_text("<html>404 not found</html>")
    for path in (tmp_path / "w.pt", tmp_path / "missing.pt", tmp_path):
        with pytest.raises(TrainingError, match=str(path)):
            load_weights(create_model("lbag", **TINY), path)


def test_the_state_of_a_training_run_is_a_weights_file(donor, tmp_path):
    path = tmp_path / "last.ckpt"
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))])
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 9])  # its state holds a collections.Counter
    content = {
        "state_dict": {f"model.{name}": tensor for name, tensor in donor.items()},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [schedule.state_dict()],
        "global_step": 3,
    }
    torch.save(content, path)
    assert load_weights(create_model("lbag", **TINY), path) == ()


def test_the_moving_average_is_preferred(donor, tmp_path):
    last = {name: tensor + 1 for name, tensor in donor.items()}
    torch.save({"params": last, "params_ema": donor}, tmp_path / "net.pth")
    model = create_model("lbag", **TINY)
    load_weights(model, tmp_path / "net.pth")
    assert all(torch.equal(tensor, donor[name]) for name, tensor in model.state_dict().items())


def test_weights_that_are_no_numbers_are_refused(donor):
    donor["FAM2.merge.main.0.bias"][1] = float("nan")
    with pytest.raises(TrainingError, match=r"FAM2.merge.main.0.bias holds NaN"):
        load_weights(create_model("lbag", **TINY), donor)


def test_a_network_may_have_names_that_look_like_a_prefix(tmp_path):
    network = torch.nn.ModuleDict({"model": torch.nn.Linear(2, 2), "average": torch.nn.Linear(2, 1)})
    state = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    load_weights(network, tmp_path / "w.pt")
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_of_averaged_and_last_weights_the_averaged_are_taken(donor):
    both = {f"model.{name}": tensor + 1 for name, tensor in donor.items()}
    both |= {f"average.{name}": tensor for name, tensor in donor.items()}
    model = create_model("lbag", **TINY)
    load_weights(model, both)
    assert all(torch.equal(tensor, donor[name]) for name, tensor in model.state_dict().items())
