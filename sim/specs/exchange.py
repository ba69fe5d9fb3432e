"""One exchange of tokens with their experts, in the words of a scenario: what `sim collective dispatch` may be told."""

from sim.specs.base import Strict
from sim.specs.chip import Dtype
from sim.specs.experts import ExpertsLayout, RoutingSpec
from sim.specs.model import Model


class ExchangedTokens(Strict):
    """Fields of a workload that an exchange depends on."""

    dispatch: Dtype = "bf16"
    """Number format in which tokens are sent to their experts."""
    combine: Dtype = "bf16"
    """Number format in which experts' outputs are sent back."""
    routing: RoutingSpec = RoutingSpec.model_construct()
    """Choice of experts by the tokens."""


class ExchangeLayout(Strict):
    """Fields of a layout that an exchange depends on."""

    experts: ExpertsLayout = ExpertsLayout.model_construct()
    """Messages, kernels and placement."""


class ExchangeInputs(Strict):
    """Model, tokens and layout of an exchange by itself."""

    model: Model
    """Transformer whose experts and rows these are."""
    workload: ExchangedTokens = ExchangedTokens()
    layout: ExchangeLayout = ExchangeLayout.model_construct()
