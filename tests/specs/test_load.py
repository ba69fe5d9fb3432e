"""Bad input is met with one line: which file and field, which rule, what was got, and what to do about it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from support.files import DROP, FILES, write

from sim.errors import InputError
from sim.specs import Scenario, load
from sim.specs.load.yaml_text import parse


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def error(changes: dict | None = None, settings: tuple[str, ...] = (), name: str = "scenario.yaml") -> str:
    """The message when `name` is loaded after the changes."""
    write(Path(), changes)
    with pytest.raises(InputError) as caught:
        load.scenario(name, settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_files_are_good_unless_a_test_breaks_them():
    scenario = load.scenario(str(write(Path())))
    assert scenario.topology.link.bandwidth.value == 1e9
    assert scenario.topology.link.bandwidth.source == "made up"
    assert scenario.topology.chip.hbm_bandwidth.value == 1e9
    assert scenario.model.d_ff == 32


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("scenario.layot", "scenario.yaml: unknown key 'layot' of a scenario; did you mean 'layout'?"),
        ("scenario.workload.bacth", "scenario.yaml: workload: unknown key 'bacth'; did you mean 'batch'?"),
        ("topology.axis", "topology.yaml: unknown key 'axis' of a topology; did you mean 'axes'?"),
        ("topology.axes.x.warp", "topology.yaml: axes.x: unknown key 'warp'; did you mean 'wrap'?"),
        ("chip.hbm_bandwith", "chip.yaml: unknown key 'hbm_bandwith' of a chip; did you mean 'hbm_bandwidth'?"),
        (
            "chip.matmul_efficiency",
            "chip.yaml: unknown key 'matmul_efficiency' of a chip; did you mean 'stack.matmul_efficiency'?",
        ),
        ("chip.peak.bf16.vlaue", "chip.yaml: peak.bf16: unknown key 'vlaue'; did you mean 'value'?"),
        ("link.latancy", "link.yaml: unknown key 'latancy' of a link; did you mean 'latency'?"),
        ("model.d_modl", "model.yaml: unknown key 'd_modl' of a model; did you mean 'd_model'?"),
        ("scenario.workload.x", "scenario.yaml: workload: unknown key 'x'; choose from activations, batch, chunk, "),
    ],
)
def test_a_typo_in_a_key_is_found_at_any_depth(field, message):
    assert error({field: 1}).startswith(message)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "model.num_local_experts",
            8,
            "model.yaml: unknown key 'num_local_experts' of a model; did you mean 'experts'?",
        ),
        (
            "scenario.workload.phase",
            "training",
            "scenario.yaml: workload.phase: must be one of prefill, decode, generate, got 'training'; "
            "training is not simulated; a scenario is forward passes",
        ),
        (
            "scenario.layout.residual",
            "lora",
            "scenario.yaml: layout.residual: must be one of standard, parallel, ladder, hybrid, desync2, desync4, "
            "no_communication, got 'lora'; "
            "adapters such as LoRA are not simulated; a matmul has the weights of the model alone",
        ),
    ],
)
def test_a_feature_that_is_known_and_not_simulated_is_named_instead_of_a_word_that_looks_alike(field, value, message):
    assert error({field: value}) == message


def test_a_misspelt_required_key_is_a_typo_and_not_a_missing_field():
    changes = {"link.latency": DROP, "link.latancy": "1 us"}
    assert error(changes) == "link.yaml: unknown key 'latancy' of a link; did you mean 'latency'?"


def test_a_field_of_another_kind_of_machine_is_not_suggested():
    message = error({"topology.kind": "switch"})
    assert message.startswith("topology.yaml: unknown key 'axes' of a topology; choose from chip, chips, ")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("scenario.model", "scenario.yaml: 'model' is required of a scenario"),
        ("scenario.workload.batch", "scenario.yaml: workload: 'batch' is required"),
        ("topology.kind", "topology.yaml: 'kind' is required of a topology"),
        ("topology.axes.y.wrap", "topology.yaml: axes.y: 'wrap' is required"),
        ("link.bandwidth.value", "link.yaml: bandwidth: 'value' is required"),
        ("model.heads", "model.yaml: 'heads' is required of a model"),
    ],
)
def test_a_missing_field_is_named(field, message):
    assert error({field: DROP}) == message


def test_all_keys_that_are_missing_or_unknown_are_named_at_once():
    whole = {"name": "m", "layers": 2, "d_model": 16, "d_ff": 32, "heads": 4, "vocabulary": 64, "ffn": "mlp"}
    assert error({"model": whole | {"block": "serial"}}) == (
        "model.yaml: 'kv_heads' and 'd_head' are required of a model; 'kv_heads' is heads where each has keys and "
        "values of its own; 'd_head' is d_model / heads in most models"
    )
    assert error({"model": whole | {"hidden_size": 16, "head_dim": 4, "nonsense": 1}}) == (
        "model.yaml: unknown keys 'hidden_size', 'head_dim' and 'nonsense' of a model; "
        "did you mean 'd_model' for 'hidden_size', 'd_head' for 'head_dim'? Fields here: block, causal, d_ff, d_head, "
        "d_model, experts, ffn, heads, kv_heads, latent, layers, mtp, name, nominal_parameters, padded_heads, source, "
        "tied, vocabulary, window"
    )


def test_a_singular_or_plural_is_looked_for_where_it_stands():
    """`chip` is a field of a topology too."""
    assert error(settings=("perturb.stragglers=[{chip: 7}]",)).endswith("unknown key 'chip'; did you mean 'chips'?")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("scenario.batch", "scenario.yaml: unknown key 'batch' of a scenario; did you mean 'workload.batch'?"),
        ("scenario.layout.tensor", "scenario.yaml: layout: unknown key 'tensor'; did you mean 'layout.mesh.tensor'?"),
        ("scenario.chips", "scenario.yaml: unknown key 'chips' of a scenario; did you mean 'topology.axes'?"),
        ("topology.latency", "topology.yaml: unknown key 'latency' of a topology; did you mean 'link.latency'?"),
        ("model.head_dim", "model.yaml: unknown key 'head_dim' of a model; did you mean 'd_head'?"),
    ],
)
def test_a_key_in_the_wrong_place_is_met_with_the_right_one(field, message):
    assert error({field: 4}) == message


# --- values ----------------------------------------------------------------------------------------------------------

QUANTITY = "must be a number with a unit such as '45 GB/s'"
COUNTED = "nominal_parameters: must be within 10% of the 5376 parameters that the dimensions make"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("link.bandwidth", 45, f"link.yaml: bandwidth: {QUANTITY}, got 45"),
        ("link.bandwidth.value", 45, f"link.yaml: bandwidth.value: {QUANTITY}, got 45"),
        (
            "link.bandwidth",
            "45 GB",
            f"link.yaml: bandwidth: {QUANTITY}, got '45 GB'; 'GB' is a size, not a bandwidth; did you mean 'GB/s'?",
        ),
        (
            "link.bandwidth",
            "45 GBs",
            f"link.yaml: bandwidth: {QUANTITY}, got '45 GBs'; 'GBs' is not a unit; did you mean 'GB/s'?",
        ),
        ("link.bandwidth", "0 GB/s", "link.yaml: bandwidth: must be greater than 0, got '0 GB/s'"),
        ("link.bandwidth", "-1 GB/s", "link.yaml: bandwidth: must be greater than 0, got '-1 GB/s'"),
        ("link.bandwidth", ".nan GB/s", f"link.yaml: bandwidth: {QUANTITY}, got '.nan GB/s'"),
        ("link.bandwidth", float("nan"), f"link.yaml: bandwidth: {QUANTITY}, got nan"),
        ("link.bandwidth", "1e30 GB/s", "link.yaml: bandwidth: must be at most 1e+21 B/s, got '1e30 GB/s'"),
        ("link.bandwidth", None, f"link.yaml: bandwidth: {QUANTITY}; nothing is given"),
        ("link.latency", "-1 us", "link.yaml: latency: must be at least 0, got '-1 us'"),
        ("scenario.workload.batch", 0, "scenario.yaml: workload.batch: must be greater than 0, got 0"),
        ("scenario.workload.batch", -4, "scenario.yaml: workload.batch: must be greater than 0, got -4"),
        ("scenario.perturb", {"seed": -1}, "scenario.yaml: perturb.seed: must be at least 0, got -1"),
        (
            "scenario.padding",
            {"real_lengths": {"distribution": "uniform", "seed": 2**32}, "eliminate": False},
            "scenario.yaml: padding.real_lengths.seed: must be less than 4294967296, got 4294967296",
        ),
        ("scenario.workload.batch", 4.0, "scenario.yaml: workload.batch: must be a whole number, got 4.0"),
        ("scenario.workload.batch", True, "scenario.yaml: workload.batch: must be a whole number, got True"),
        (
            "scenario.workload.batch",
            "4",
            "scenario.yaml: workload.batch: must be a whole number, got '4'; write it without quotes",
        ),
        (
            "scenario.workload.batch",
            10**13,
            "scenario.yaml: workload.batch: must be at most 1000000000000, got 10000000000000",
        ),
        ("scenario.workload", "decode", "scenario.yaml: workload: must be a mapping of fields, got 'decode'"),
        ("model.nominal_parameters", 4800, f"model.yaml: {COUNTED}, got 4800.0; leave it out to take those"),
        ("model.nominal_parameters", 5920, f"model.yaml: {COUNTED}, got 5920.0; leave it out to take those"),
        ("model.nominal_parameters", float("inf"), "model.yaml: nominal_parameters: must be a finite number, got inf"),
        ("model.nominal_parameters", "8B", "model.yaml: nominal_parameters: must be a number, got '8B'"),
        ("model.layers", 10**9, "model.yaml: layers: must be at most 10000, got 1000000000"),
        ("chip.peak", {}, "chip.yaml: peak: must have 1 or more entries, got {}"),
        (
            "scenario.stack",
            {"name": "s", "matmul_efficiency": 85},
            "scenario.yaml: stack.matmul_efficiency: must be a fraction above 0 and at most 1, such as 0.85 or '85 %', "
            "got 85",
        ),
        ("topology.axes.x.wrap", "yes", "topology.yaml: axes.x.wrap: must be true or false, got 'yes'"),
        ("topology.axes.x.size", 10**9, "topology.yaml: axes: must have at most 65536 chips, got 2000000000"),
        ("topology.axes", [2, 2], "topology.yaml: axes: must be a mapping of fields, got [2, 2]"),
        (
            "topology.axes.XX",
            {"size": 1, "wrap": False},
            "topology.yaml: axes.XX: an axis is named by one lower-case letter, got 'XX'",
        ),
        (
            "scenario.name",
            "a/b",
            "scenario.yaml: name: must be letters, digits, '_', '-' and '.', with a letter or digit first, got 'a/b'",
        ),
        (
            "scenario.engine",
            {"layers": "al"},
            "scenario.yaml: engine.layers: must be a whole number or 'all', got 'al'",
        ),
    ],
)
def test_a_value_is_met_with_its_rule(field, value, message):
    assert error({field: value}) == message


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("workload.phase", "prefil", "must be one of prefill, decode, generate, got 'prefil'; did you mean 'prefill'?"),
        (
            "workload.weights",
            "int2",
            "must be one of bf16, fp16, int8, fp8, mxfp8, int4, nvfp4, mxfp4, got 'int2'; did you mean 'int8'?",
        ),
        ("layout.attention", "head", "must be one of heads, batch, got 'head'; did you mean 'heads'?"),
        (
            "layout.overlap",
            "non",
            "must be one of none, collective_matmul, micro_batches, token_halves, chunked_matmul, got 'non'; "
            "did you mean 'none'?",
        ),
        ("collectives.allgather", "ring", "unknown collective; did you mean 'all_gather'?"),
        ("collectives.permute", "tree", "no algorithm of permute, got 'tree'; choose from neighbour"),
        (
            "collectives.collective_matmul",
            "ring",
            "no algorithm of collective_matmul, got 'ring'; choose from bidirectional_",
        ),
        ("collectives.all_gather", None, "must be text; nothing is given"),
    ],
)
def test_an_unknown_name_is_met_with_the_known_ones(field, value, message):
    changes = {"scenario.collectives": {}, f"scenario.{field}": value}
    assert error(changes).startswith(f"scenario.yaml: {field}: {message}")


def test_an_unknown_layout_is_met_with_the_closest():
    message = error({"scenario.layout.ffn": "weight_stationery_2d"})
    assert message.startswith("scenario.yaml: layout.ffn: must be one of weight_stationary_1d, ")
    assert message.endswith("got 'weight_stationery_2d'; did you mean 'weight_stationary_2d'?")


def test_the_form_of_a_looped_matmul_is_a_choice_of_the_scenario_and_not_of_the_machine():
    chosen = {"collective_matmul": "one_way"}
    assert load.scenario(str(write(Path(), {"scenario.collectives": chosen}))).collectives == chosen
    message = error({"topology.collectives": chosen})
    assert message.startswith(
        "topology.yaml: collectives.collective_matmul: unknown collective; choose from all_gather"
    )


# --- rules between fields --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scenario.workload.context": DROP}, "scenario.yaml: workload.context: is required for phase 'decode'"),
        ({"scenario.workload.prompt": 3}, "scenario.yaml: workload.prompt: is not allowed for phase 'decode', got 3"),
        ({"model.kv_heads": 3}, "model.yaml: kv_heads: must divide heads, 4, got 3"),
        ({"model.padded_heads": 2}, "model.yaml: padded_heads: must be at least heads, 4, got 2"),
        (
            {"model.padded_heads": 5, "model.kv_heads": 2, "model.heads": 4},
            "model.yaml: padded_heads: must be a multiple of kv_heads, 2: heads share keys and values in equal groups, "
            "got 5",
        ),
        (
            {"scenario.reference": {"latency": "0 s", "tolerance": 0.1, "source": "x"}},
            "scenario.yaml: reference.latency: must be greater than 0, got '0 s'",
        ),
        (
            {"topology.axes.x.twist": {"q": 1}},
            "topology.yaml: axes.x.twist: must name another axis, got 'q'",
        ),
        (
            {"topology.axes.x.twist": {"y": 2}},
            "topology.yaml: axes.x.twist.y: must be less than the size of axis 'y', 2, got 2",
        ),
        (
            {"topology.axes.x": {"size": 2, "wrap": False, "twist": {"y": 1}}},
            "topology.yaml: axes.x.twist: requires 'wrap: true'",
        ),
        (
            {"scenario.workload.activations": "fp16"},
            "scenario.yaml: workload.activations: must be a type that chip 'chip' has a peak for, got 'fp16'; it "
            "has bf16",
        ),
    ],
)
def test_a_rule_between_fields_names_the_field_to_change(changes, message):
    assert error(changes) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        # 32 heads on 8 key-value heads and d_ff 14336 = 2^11 x 7 of Llama 3 8B, on up to 8 chips.
        (["layout.mesh.tensor=3"], "must divide 32 heads and d_ff, 14336, got 3; 2 or 4 would do"),
        (["layout.mesh.tensor=7"], "must divide 32 heads and d_ff, 14336, got 7; 4 or 8 would do"),
        (["layout.mesh.tensor=null", "topology.chips=7"], "must divide 32 heads and d_ff, 14336, got 7; 4 would do"),
        # Heads of their own keys and values are padded, so that only d_ff is in the way.
        (["model.kv_heads=32", "layout.mesh.tensor=6"], "must divide d_ff, 14336, got 6; 4 or 7 would do"),
    ],
)
def test_chips_that_cannot_share_heads_and_d_ff_are_met_with_those_that_can(settings, message):
    with pytest.raises(InputError) as caught:
        load.scenario("llama3_8b_tp8_ladder", settings)
    assert f"layout.mesh.tensor: {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        (
            {"between": ["a", "z"], "link": "nv"},
            "links[0].between: must name two of the nodes, got 'z'; choose from a, b",
        ),
        ({"between": ["a", "a"], "link": "nv"}, "links[0].between: must name two different nodes, got ['a', 'a']"),
        ({"between": ["a"], "link": "nv"}, "links[0].between: must have 2 or more entries, got ['a']"),
        (
            {"between": ["a", "b"], "link": "vn"},
            "links[0].link: must be one of the link_types, got 'vn'; choose from nv; link_types: {vn: vn} adds a file "
            "or shipped link of that name",
        ),
        ({"between": ["a", "b"], "link": "nv", "cuont": 2}, "links[0]: unknown key 'cuont'; did you mean 'count'?"),
    ],
)
def test_the_links_of_a_graph_join_nodes_that_exist(edge, message):
    graph = {
        "name": "pair",
        "kind": "graph",
        "chip": "chip.yaml",
        "nodes": {"a": "chip", "b": "chip"},
        "link_types": {"nv": "link.yaml"},
        "links": [edge],
    }
    assert error({"topology": graph}) == f"topology.yaml: {message}"


# --- references ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "scenario.model",
            "palm540b",
            "scenario.yaml: model: no such model, got 'palm540b'; did you mean 'palm_540b'?",
        ),
        ("topology.chip", "tpu_v44", "topology.yaml: chip: no such chip, got 'tpu_v44'; did you mean 'tpu_v4'?"),
        (
            "topology.link",
            "lnk.yaml",
            "topology.yaml: link: no such link file, got 'lnk.yaml'; did you mean 'link.yaml'?",
        ),
        (
            "scenario.topology",
            5,
            "scenario.yaml: topology: must be the name of a topology, a path or a mapping of fields, got 5",
        ),
        (
            "scenario.topology",
            None,
            "scenario.yaml: topology: must be the name of a topology, a path or a mapping of fields; nothing is given",
        ),
        ("scenario.topology", ".", "scenario.yaml: topology: must be a topology file, not a folder, got '.'"),
        ("scenario.topology", {"kind": "tors"}, "scenario.yaml: topology.kind: must be one of torus, switch, graph, "),
        ("scenario.topology", "scenario.yaml", "scenario.yaml: 'kind' is required of a topology"),
        ("topology.chip", "topology.yaml", "topology.yaml: unknown keys 'kind', 'chip', 'link' and 'axes' of a chip; "),
    ],
)
def test_a_reference_names_something_of_the_right_kind(field, value, message):
    assert error({field: value}).startswith(message)


def test_names_that_no_file_can_have_are_just_unknown():
    for name in ("a" * 5000, "a\0b", "", "日本"):
        assert error({"scenario.model": name}).startswith("scenario.yaml: model: no such model, got '")


def test_a_path_in_a_file_is_seen_from_that_file(tmp_path):
    # machine/ holds the topology and its parts, and is named from a scenario elsewhere.
    write(Path("machine"))
    Path("scenarios").mkdir()
    data = FILES["scenario"] | {"topology": "../machine/topology.yaml", "model": "palm_8b"}
    Path("scenarios/s.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    assert load.scenario("scenarios/s.yaml").topology.chip.name == "chip"


def test_an_error_in_a_file_outside_this_folder_names_its_whole_path(tmp_path, monkeypatch):
    write(Path(), {"link.latency": 1})
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    with pytest.raises(InputError) as caught:
        load.scenario("../scenario.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'link.yaml'}: latency: must be a number with a unit")


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "scenario.yaml: the file is empty; it must hold a mapping of fields"),
        ("# nothing\n", "scenario.yaml: the file is empty; it must hold a mapping of fields"),
        ("- a\n- b\n", "scenario.yaml: must hold a mapping of fields, got ['a', 'b']"),
        ("name: [1, 2\nmodel: x\n", "scenario.yaml:2:6: must be valid YAML: "),
        ("name: a: b\n", "scenario.yaml:1:8: must be valid YAML: "),
        ("workload:\n\tbatch: 1\n", "scenario.yaml:2:1: must be valid YAML: "),
        ("name: a\nname: b\n", "scenario.yaml:2:1: must be valid YAML: key 'name' is given twice"),
        ("workload: {batch: 1, batch: 2}\n", "scenario.yaml:1:22: must be valid YAML: key 'batch' is given twice"),
        ("? [a]\n: b\n", "scenario.yaml:1:3: must be valid YAML: a key must be text"),
        ("a: &a {b: *a}\n", "scenario.yaml:1:11: must be valid YAML: found undefined alias 'a'"),
        ("name: !!python/object:os.system x\n", "scenario.yaml:1:7: must be valid YAML: "),
        ("name: \x07\n", "scenario.yaml: must be valid YAML: "),
        ("name: " + "9" * 5000, "scenario.yaml:1:7: must be valid YAML: a number must have at most 1,000 digits"),
        ("name: a\n---\nname: b\n", "scenario.yaml:2:1: must be valid YAML: a file holds one document"),
        ("<<: 3\n", "scenario.yaml:1:5: must be valid YAML: '<<' must be a mapping or a list of mappings"),
        ("имя: x\n", "scenario.yaml: unknown key 'имя' of a scenario; choose from collectives, "),
        ('"\\e[31m": x\n', "scenario.yaml: unknown key '\\x1b[31m' of a scenario; choose from collectives, "),
    ],
)
def test_a_file_must_be_a_mapping_in_yaml(text, message):
    assert error({"scenario": text}).startswith(message)


def test_a_file_must_be_text(tmp_path):
    Path("binary.yaml").write_bytes(bytes(range(256)))
    Path("wide.yaml").write_text("name: x", encoding="utf-16")
    for name in ("binary.yaml", "wide.yaml"):
        assert error(name=name) == f"{name}: must be a text file in UTF-8"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("palm540b_decode_ws2", "no such scenario, got 'palm540b_decode_ws2'; did you mean 'palm540b_decode_ws2d'?"),
        ("scenaro.yaml", "no such scenario file, got 'scenaro.yaml'; did you mean 'scenario.yaml'?"),
        ("zzz.yaml", "no such scenario file, got 'zzz.yaml'; `sim list scenarios` names those that are shipped"),
        (os.sep, "must be a scenario file, not a folder, got '/'"),
        ("nope", "no such scenario, got 'nope'; choose from bert_6b_pp2, "),
    ],
)
def test_a_file_must_be_there(name, message):
    assert error(name=name).startswith(message)


@pytest.mark.parametrize("number", ["1e9", "1e+21", "5.4e11", "540.0e+9", "7", "1e-07"])
def test_numbers_are_read_as_json_writes_them(number):
    # YAML 1.1 takes 1e9 for text.
    assert parse(f"value: {number}", "here") == {"value": float(number)}


def test_a_model_has_the_parameters_of_its_dimensions():
    # Per layer attention 2 x (4 + 1) heads x 4 x d_model 16 and an FFN of 3 x 16 x 32; one table of 64 x 16.
    model = load.scenario(str(write(Path()))).model
    assert model.parameters == model.counted_parameters == 2 * (2 * 5 * 4 * 16 + 3 * 16 * 32) + 64 * 16
    own_head = load.scenario(str(write(Path(), {"model.tied": False, "model.ffn": "mlp"}))).model
    assert own_head.parameters == 2 * (2 * 5 * 4 * 16 + 2 * 16 * 32) + 2 * 64 * 16
    padded = load.scenario(str(write(Path(), {"model.padded_heads": 8}))).model
    assert padded.parameters == model.parameters  # MFU counts no padding


def test_a_model_of_other_dimensions_is_not_the_one_whose_parameters_its_file_gives():
    path = str(write(Path(), {"model.nominal_parameters": 5400}))
    assert load.scenario(path).model.parameters == 5400
    assert load.scenario(path, ["model.padded_heads=8"]).model.parameters == 5400
    assert load.scenario(path, ["model.layers=1"]).model.parameters == (5376 + 1024) / 2
    assert load.scenario(path, ["model.nominal_parameters=3300", "model.layers=1"]).model.parameters == 3300


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batch", "--set: must be key=value, such as layout.overlap=none, got 'batch'"),
        ("=3", "--set: must be key=value, such as layout.overlap=none, got '=3'"),
        ("workload..batch=3", "--set: must be key=value, such as layout.overlap=none, got 'workload..batch=3'"),
        ("layot.ffn=x", "--set layot.ffn: unknown key 'layot' of a scenario; did you mean 'layout'?"),
        ("chips=4", "--set chips: unknown key 'chips' of a scenario; did you mean 'topology.axes'?"),
        (
            "topology.latency=1 us",
            "--set topology.latency: unknown key 'latency' of a topology; did you mean 'topology.link.la",
        ),
        ("layout.fnf=x", "--set layout.fnf: unknown key 'fnf'; did you mean 'ffn'?"),
        ("workload.batch=abc", "--set workload.batch: must be a whole number, got 'abc'"),
        ("workload.batch=", "--set workload.batch: must be a whole number; nothing is given"),
        ("workload.batch=-1", "--set workload.batch: must be greater than 0, got -1"),
        ("workload.batch=[1", "--set workload.batch: must be valid YAML: did not find expected ',' or ']'"),
        ("model.layers.x=1", "--set model.layers.x: 'layers' holds a value, not fields, got 2"),
        ("topology.link.bandwidth=90", f"--set topology.link.bandwidth: {QUANTITY}, got 90"),
        ("topology.link.bandwith=90", "--set topology.link.bandwith: unknown key 'bandwith' of a link; did you mean"),
        ("topology.link=ici", "--set topology.link: no such link, got 'ici'; did you mean 'ici_v4'?"),
        ("topology=nope", "--set topology: no such topology, got 'nope'; choose from "),
        ("collectives.all_gather=rng", "--set collectives.all_gather: no algorithm of all_gather, got 'rng'; did you"),
        (
            "workload.activations=int8",
            "--set workload.activations: must be a type that chip 'chip' has a peak for, got 'int8'; it has bf16",
        ),
        (
            "workload.phase=prefill",
            "scenario.yaml: workload.prompt: is required for phase 'prefill'; with --set workload.phase=prefill",
        ),
    ],
)
def test_a_bad_setting_is_named_and_not_the_file_it_overrides(setting, message):
    assert error(settings=(setting,)).startswith(message)


def test_names_of_files_inside_a_mapping_that_is_set_are_followed():
    """`memory_pool.link` by itself, and within the whole of `memory_pool`."""
    pool = "memory_pool={offload_every: 2, to: host, link: %s}"
    scenario = load.scenario("llama3_70b_tp8_standard", (pool % "pcie_gen4_x16",))
    assert scenario.memory_pool.link.name == "pcie_gen4_x16"
    with pytest.raises(InputError, match=r"^--set memory_pool: link: no such link, got 'pcie_gen9'; did you mean"):
        load.scenario("llama3_70b_tp8_standard", (pool % "pcie_gen9",))


def test_settings_reach_into_what_a_file_refers_to():
    path = str(write(Path()))
    settings = ("topology.link.bandwidth=90 GB/s", "model.layers=7", "topology.axes.x.size=4", "layout.overlap=none")
    scenario = load.scenario(path, settings)
    assert scenario.topology.link.bandwidth.value == 90e9
    assert scenario.topology.link.bandwidth.source is None  # the file's source is not the source of this number
    assert scenario.model.layers == 7
    assert scenario.topology.axes["x"].size == 4
    assert (
        load.scenario(path, ("topology=tpu_v4_2x2x2", "topology.chip=chip.yaml", "stack=ideal")).topology.chip.name
        == "chip"
    )
    assert load.scenario(path).model.layers == 2  # nothing is left of it


def test_a_setting_leaves_what_an_alias_shares():
    axes = "&a {size: 2, wrap: true}"
    path = write(Path())
    text = Path("topology.yaml").read_text(encoding="utf-8").partition("axes:")[0]
    Path("topology.yaml").write_text(f"{text}axes: {{x: {axes}, y: *a}}\n", encoding="utf-8")
    sizes = {
        name: axis.size for name, axis in load.scenario(str(path), ["topology.axes.x.size=4"]).topology.axes.items()
    }
    assert sizes == {"x": 4, "y": 2}


# --- and back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", load.shipped("scenario"))
def test_a_scenario_written_out_and_loaded_again_is_the_same(name):
    scenario = load.scenario(name)
    data = scenario.model_dump(mode="json", exclude_none=True)
    Path("again.yaml").write_text(json.dumps(data), encoding="utf-8")
    assert load.scenario("again.yaml") == scenario
    assert Scenario.model_validate(data) == scenario


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("energonai_pipeline", "layout.pipeline.requests=16000000", "requests: must be at most 10000, got 16000000"),
        ("energonai_pipeline", "layout.pipeline.microbatches=20000", "microbatches: .*at most 10000"),
        ("palm540b_decode_ws2d", "workload.generate=1000000000", "generate: must be at most 1000000, got 1000000000"),
    ],
)
def test_what_is_simulated_one_by_one_is_bounded(name: str, setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load.scenario(name, ["sweep=null", "figure=null", setting])


@pytest.mark.parametrize(
    ("setting", "of", "factor"),
    [
        ("link.latency=0.5x", lambda scenario: scenario.topology.line_links["x"].latency.value, 0.5),
        ("topology.link.bandwidth=2x", lambda scenario: scenario.topology.line_links["x"].bandwidth.value, 2),
        ("workload.batch=2x", lambda scenario: scenario.workload.batch, 2),
        ("stack.collective_step=.5x", lambda scenario: scenario.stack.collective_step.value, 0.5),
    ],
)
def test_a_factor_is_applied_to_what_the_files_say(setting, of, factor):
    before, after = (of(load.scenario("palm540b_decode_ws2d", settings)) for settings in ([], [setting]))
    assert after == pytest.approx(factor * before, rel=1e-12)


def test_a_factor_needs_a_number():
    with pytest.raises(InputError) as refused:
        load.scenario("palm540b_decode_ws2d", ["model.name=2x"])
    expected = "--set model.name: a factor such as 0.5x requires a number in the file, got 'palm_540b'; give a value"
    assert str(refused.value) == expected
