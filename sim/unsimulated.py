"""Features of training and serving that are not simulated, by the words that people write for them."""

from __future__ import annotations

import re

_FEATURES = {
    "multi-head latent attention is not simulated": "mla, kv lora rank, q lora rank, latent attention",
    "adapters such as LoRA are not simulated; a matmul has the weights of the model alone": "lora, adapter, adapters",
    "continuous batching is not simulated; the sequences of a batch begin and end together": (
        "continuous batching, inflight batching, in flight batching, dynamic batching"
    ),
    "speculative decoding is not simulated; a decode step makes one token of each sequence": (
        "speculative, speculation, draft, draft model, medusa, eagle"
    ),
    "paged attention is not simulated; a step reads the cache of each sequence in one piece": "paged, pagedattention",
    "training is not simulated; a scenario is forward passes": (
        "train, training, backward, gradient, gradients, optimizer, zero stage, zero1, zero2, zero3"
    ),
    "mixtures of experts are not simulated; `sim collective all_to_all --matrix` times their exchange of tokens": (
        "moe, expert, experts"
    ),
    "prefix caching is not simulated; a prefill computes its whole prompt": "prefix caching, prefix cache",
    "chunked prefill is not simulated; a prefill is one pass over the prompt": "chunked prefill, prefill chunk",
    "prefill and decode on machines of their own are not simulated; run a scenario of each": (
        "disaggregated, disaggregation"
    ),
    "context parallelism is not simulated; attention is split over heads or over the batch": (
        "context parallel, ring attention, ulysses"
    ),
    "sliding windows are not simulated; attention reads the whole cache": "sliding window",
    "beam search is not simulated; a sequence has one continuation": "beam, beams",
    "state-space layers are not simulated": "mamba, ssm, state space",
    "power and energy are not simulated": "energy, power, watts, joules",
    "packets and congestion control are not simulated; messages queue at links and none is lost": (
        "packet loss, congestion control, ecn, pfc, dcqcn"
    ),
}
"""Sentences, and the words of a key or a value, separated by spaces, that ask for the feature."""


def describe_unsimulated(text: str) -> str:
    """Returns a sentence on the feature that a key or a value asks for; empty where it names none.

    >>> describe_unsimulated("num_beams")
    'beam search is not simulated; a sequence has one continuation'
    """
    words = f" {' '.join(re.findall('[a-z0-9]+', text.lower()))} "
    found = (line for line, terms in _FEATURES.items() if any(f" {term} " in words for term in terms.split(", ")))
    return next(found, "")
