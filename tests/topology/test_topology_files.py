"""The shipped machines load, build and draw, and every hardware number in them says where it comes from."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from pydantic import BaseModel

from sim.plots.style import save
from sim.plots.topology import draw
from sim.specs import Sourced, load
from sim.topology import build, describe
from sim.topology.metrics import bisection

TOPOLOGIES = sorted(load.shipped("topology"))


def unsourced(spec: object, path: str = "") -> list[str]:
    """Fields of a spec that hold a number of the file, not a default, without a source."""
    if isinstance(spec, Sourced):
        return [] if spec.source else [path]
    if isinstance(spec, BaseModel):
        given = {name: getattr(spec, name) for name in spec.model_fields_set}
        return [found for name, value in given.items() for found in unsourced(value, f"{path}.{name}".strip("."))]
    if isinstance(spec, dict):
        return [found for name, value in spec.items() for found in unsourced(value, f"{path}.{name}")]
    return []


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_shipped_number_has_a_source(name):
    spec = load.topology_spec(name)
    assert unsourced(spec) == []
    assert spec.source
    assert spec.description


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_shipped_machine_builds_and_is_named_as_its_file(name):
    topology = build(*load.machine(name))
    assert topology.name == name
    assert len({link.name for link in topology.links}) == len(topology.links)


@pytest.mark.parametrize("kind", ["topology", "chip", "link"])
def test_every_file_names_its_schema(kind):
    for path in load.shipped(kind).values():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        match = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
        assert match, path
        schema = (path.parent / match[1]).resolve()
        assert schema.name == f"{kind}.json"
        assert schema.parent.parts[-3:] == ("sim", "specs", "schemas")


@pytest.mark.parametrize(
    ("name", "rings"),
    [
        ("tpu_v4_2x2x1", [False, False, False]),  # smaller than a cube of 4x4x4: a mesh
        ("tpu_v4_2x2x2", [False, False, False]),
        ("tpu_v4_2x4x4", [False, False, False]),
        ("tpu_v4_8x8x16", [True, True, True]),
        ("tpu_v4_4x4x4", [True, True, True]),
        ("tpu_v4_4x4x8_twisted", [False, False, True]),
        ("tpu_v5e_4x4", [False, False]),  # v5e wraps an axis only when it is 16 long
        ("tpu_v5e_8x16", [False, True]),
        ("tpu_v5e_16x16", [True, True]),
    ],
)
def test_which_axes_wrap(name, rings):
    assert [axis.ring for axis in build(*load.machine(name)).axes] == rings


def test_v4_pod_matches_its_published_bisection():
    # Google Cloud TPU v4 documentation: 24 TB/s. 512 links of the nominal 50 GB/s give 25.6 TB/s each way, of the
    # effective 45 GB/s in the file 23.0: the published figure lies between.
    cut = bisection(build(*load.machine("tpu_v4_16x16x16")))
    assert cut.links == 512
    assert cut.bandwidth == pytest.approx(512 * 45e9)
    assert cut.bandwidth < 24e12 < 512 * 50e9


@pytest.mark.parametrize("name", ["tpu_v4_2x2x1", "tpu_v4_4x4x8_twisted", "tpu_v4_8x8x8"])
def test_a_drawing_is_the_same_bytes_every_time(tmp_path, name):
    topology = build(*load.machine(name))
    for file in ("first.png", "second.png"):
        save(draw(topology), tmp_path / file)
    first = (tmp_path / "first.png").read_bytes()
    assert first == (tmp_path / "second.png").read_bytes()
    assert first.startswith(b"\x89PNG")


def test_building_a_torus_imports_no_graph_or_plot_library():
    code = (
        "import sys; from sim.specs import load; from sim.topology import build, metrics;"
        "t = build(*load.machine('tpu_v4_4x4x4')); t.route(0, 63); metrics.hops(t); metrics.bisection(t);"
        "print(sorted({'networkx', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def test_a_machine_with_two_kinds_of_links_says_both_with_one_unit():
    shown = dict(describe.lines(describe.facts(build(*load.machine("dgx_h100_x2", [])))))
    assert shown["links"] == (
        "64 directed, 47 (nominal 50) or 370.8 (nominal 450) GB/s one way, 0.3 or 1.35 us per hop"
    )


def test_a_hop_is_the_link_and_the_start_of_a_message():
    """Who sets link.latency to the sum counts the software twice."""
    facts = describe.facts(
        build(*load.machine("tpu_v4_2x2x1", ["link.latency=1 us", "stack.collective_step.value=3 us"]))
    )
    shown = dict(describe.lines(facts))["links"]
    assert shown.endswith("4 us per hop: 1 link.latency + 3 of the stack to start a message")
    assert dict(describe.lines(facts | {"message_start_s": 0.0}))["links"].endswith("4 us per hop")
