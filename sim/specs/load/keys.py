"""Keys that a mapping may have, and suggestions for wrong keys."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from sim.errors import closest, describe_unsimulated, suggest
from sim.specs import Software
from sim.specs.file_kinds import file_model
from sim.specs.load.places import Path_

_OTHER_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "d_model": ("hidden_size", "n_embd", "dim"),
    "d_ff": ("intermediate_size", "hidden_dim", "ffn_dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "n_kv_heads", "num_kv_heads"),
    "d_head": ("head_dim",),
    "vocabulary": ("vocab_size",),
    "tied": ("tie_word_embeddings",),
    "experts": ("num_local_experts", "n_routed_experts", "num_experts", "num_experts_per_tok", "moe"),
    "latent": ("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "v_head_dim", "mla"),
    "window": ("sliding_window", "sliding_window_size", "attention_chunk_size"),
    "batch": ("batch_size", "max_batch_size"),
    "activations": ("dtype", "torch_dtype"),
    "tensor": ("tp", "tensor_parallel_size"),
    "pipeline": ("pp", "pipeline_parallel_size"),
    "axes": ("chips",),
    "nodes": ("chips",),
}
"""Names of fields elsewhere: `config.json` of Hugging Face's transformers, `params.json` of Llama, options of serving
engines; chips are a field of a switch alone."""

_DEEPEST = 3
"""Levels above a field that is looked for; some models hold their like."""


def fields_at(kind: str, loc: Path_) -> set[str]:
    """Field names allowed at pydantic's path."""
    models = models_of(file_model(kind))
    for part in loc:
        kinds = [m for m in models if part in _kinds(m)]
        inside = [x for m in models if part in m.model_fields for x in models_of(m.model_fields[str(part)].annotation)]
        models = kinds or inside or models  # neither: the key of a mapping of models
    return {field for model in models for field in model.model_fields}


def advice(keys: list[str], own: set[str], kind: str, file: Any, under: Path_) -> str:
    """`did you mean 'd_model'?` for each of the wrong keys, else the fields to choose from; of features that are known
    and not simulated, that they are not.

    Args:
        own: fields that may stand where the keys do.
        kind: of the file, or of what settings change.
        file: what it holds; tells which kind of topology it is.
        under: where in the file the keys stand.
    """
    if lines := dict.fromkeys(filter(None, map(describe_unsimulated, keys))):
        return "; ".join(lines)
    found = {key: _meant(key, own, kind, file, under) for key in keys}
    if len(keys) == 1 and found[keys[0]]:
        return f"did you mean '{found[keys[0]]}'?"
    if not any(found.values()):
        return suggest("", own)
    meant = f"did you mean {', '.join(f'{name!r} for {key!r}' for key, name in found.items() if name)}?"
    return meant if all(found.values()) else f"{meant} Fields here: {', '.join(sorted(own))}"


def _meant(key: str, own: set[str], kind: str, file: Any, under: Path_) -> str:
    """The field that was meant, as far as that can be told, else "".

    In this order: its singular or plural here, what others call so, a field of that name elsewhere, one that looks
    alike here, one elsewhere; before these, a constant of software.
    """
    for name in (f"{key}s", key.removesuffix("s")):
        if name in own:
            return name
    elsewhere: dict[str, str] = {}
    for path in sorted(_paths(file_model(kind), file), key=lambda path: path[: len(under)] != under):
        elsewhere.setdefault(path[-1], ".".join(path))
    for name in (key, *(ours for ours, theirs in _OTHER_NAMES.items() if key in theirs)):
        if name in own:
            return name
        if name in elsewhere and len(name) > 1:
            return elsewhere[name]
    if key in Software.model_fields and key not in elsewhere:
        return f"stack.{key}"  # of a scenario, where the file is that of a chip
    near = closest(key, own)
    return near or elsewhere.get(closest(key, (name for name in elsewhere if len(name) > 1)) or "", "")


def _paths(annotation: Any, data: Any) -> Iterator[tuple[str, ...]]:
    """Dotted fields, those of fewer parts first; not those in lists and mappings of any keys."""
    waiting: deque[tuple[tuple[str, ...], Any, Any]] = deque([((), annotation, data)])
    while waiting:
        path, annotation, data = waiting.popleft()
        models = models_of(annotation, containers=False)
        values = data if isinstance(data, dict) else {}
        for model in [m for m in models if values.get("kind") in _kinds(m)] or models:
            for name, field in model.model_fields.items():
                yield (*path, name)
                if len(path) < _DEEPEST:
                    waiting.append(((*path, name), field.annotation, values.get(name)))


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def models_of(annotation: Any, containers: bool = True) -> list[type[BaseModel]]:
    """The models an annotation is made of, also those in lists and mappings if `containers`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = get_origin(annotation)
    if (origin is None and not isinstance(annotation, types.UnionType)) or (origin in (list, dict) and not containers):
        return []
    return [m for a in get_args(annotation) for m in models_of(a, containers)]
