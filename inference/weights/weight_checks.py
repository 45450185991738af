"""Checks that a checkpoint has exactly the weights of its model, and that all of them are finite.

transformers fills missing weights with random numbers, and drops those that a model has no place for; in both cases the
answers are fluent garbage. So both are refused, except for the leftovers in the table here, each of which has a reason.
"""

import logging
import math
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig

from inference.weights.config_numbers import check_rotation
from inference.weights.found_instead import listed
from inference.weights.lacking import HEAD, IF_TIED, missing_weights, renamed, unfit_weights
from inference.weights.safetensors_header import BadFile
from inference.weights.source import Loaded, Origin, Source
from inference.weights.usable_settings import without_one
from interface.errors import LoadError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("engine")

LEFTOVERS = (
    (r"\.rotary_emb\.inv_freq$", "the angles of a rotary embedding, which are computed from config.json"),
    (r"\.(attn|attention)\.(bias|masked_bias)$", "the causal mask, which old GPT-2 and GPT-NeoX models saved"),
    (r"^(model\.)?mtp\.", "layers that predict several tokens at once; serving takes them one by one"),
    (
        r"^(model\.)?(visual|vision_tower|vision_model|audio_tower|multi_modal_projector|embed_vision|embed_audio)\.",
        "what a model sees and hears with; only texts are served",
    ),
)
"""Tensors that a model may have left over: a pattern of their names, and the reason why they are not needed."""
SCALES = re.compile(r"(scale|scales|scale_inv|qzeros|qweight|g_idx|absmax|SCB|zero_point|quant_map|quant_state\S*)$")
PIECE = 2**24
"""Elements that are checked for NaN at a time: few enough for the memory to be reused."""
UNCERTAIN = "weights are missing or of another shape"
LONGEST_REASON = 600
OF_PYTHON = (AttributeError, LookupError, ArithmeticError, AssertionError, NameError, NotImplementedError)
IN_PYTHONS_WORDS = (
    "not supported between",
    "unsupported operand",
    "invalid literal for",
    "not subscriptable",
    "has no len()",
    "dictionary update sequence",
    "truth value of an",
    "not iterable",
    "positional argument",
    "object is not",
    "object cannot be",
    "must be real number",
    "unhashable type",
    "attribute name must be",
    "non-singleton dimension",  # of torch, where sizes do not fit each other
)


def reason(error: BaseException) -> str:
    """Return an exception's message in one line. Messages about Python types, which do not help users, are left out."""
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    if isinstance(error, KeyError) and text:
        return text if " " in text else f"transformers finds nothing under {text!r}"
    if not text or isinstance(error, OF_PYTHON) or any(words in text for words in IN_PYTHONS_WORDS):
        return "a setting in it has a type or a value that transformers cannot use"
    text = re.sub(r"\b(\w+\.)*\w*(Error|Exception): ", "", text)
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} …"


def refuse_missing(source: Source, loaded: Loaded, is_known: Callable[[str], bool]) -> None:
    """Check that the files and the model have the same weights.

    Args:
        is_known: whether a tensor that the model has no place for may be left over.

    Raises:
        LoadError: a weight is missing, of another shape, or has no place in the model.
    """
    name, origin, called, info = source.name, source.origin, source.called, loaded.info
    unexpected = sorted(called(key) for key in info["unexpected_keys"] if not is_known(key))
    if missing := {called(key) for key in info["missing_keys"]}:
        others = f", and {len(unexpected)} others are there, {unexpected[0]} for one" if unexpected else ""
        raise LoadError(f"{name}: {missing_weights(missing)}{others}. {_advice(origin, missing)}")
    if unfit := [(called(key), came, wanted) for key, came, wanted in info["mismatched_keys"]]:
        raise LoadError(f"{name}: {unfit_weights(unfit, origin.settings)}. {origin.advice}")
    if problems := [*info.get("error_msgs", ()), *info.get("conversion_errors", {}).values()]:
        raise LoadError(f"{name}: its weights cannot be brought into the model: {' '.join(str(problems[0]).split())}")
    if not unexpected:
        return
    scales = [key for key in unexpected if SCALES.search(key)]
    if scales:
        raise LoadError(
            f"{name}: {len(scales)} tensors look like the scales of a quantization that {origin.settings} does not "
            f"mention, {scales[0]} for one. Serve the model that they were made from, or {origin.instead} of it."
        )
    raise LoadError(
        f"{name}: the model has no place for {len(unexpected)} tensors of the files, {unexpected[0]} for one. "
        f"{origin.advice}"
    )


def is_leftover(name: str) -> bool:
    """Whether a tensor may be left over, by its name."""
    return any(re.search(pattern, name) for pattern, _ in LEFTOVERS)


def is_layer_of_mtp(name: str, config: PreTrainedConfig) -> bool:
    """Whether a weight belongs to layers after the last, which predict several tokens at once and are not served."""
    text = config.get_text_config()
    extra = getattr(text, "num_nextn_predict_layers", None)
    found = re.search(r"\blayers\.(\d+)\.", name)
    if not extra or found is None:
        return False
    return 0 <= int(found[1]) - int(text.num_hidden_layers) < int(extra)


def refuse_nan(source: Source, weights: Mapping[str, Tensor]) -> None:
    """Check that every weight of a model is a finite number.

    Raises:
        BadFile: one is NaN or infinite.
    """
    for name, weight in weights.items():
        if weight.is_floating_point() and not _is_finite(weight.detach()):
            raise BadFile(
                source.where(name),
                f"tensor {source.called(name)} has a weight that is NaN or infinite; expected numbers only",
            )


def warn_of_zeros(name: str, matrices: Sequence[str]) -> None:
    """Warn of matrices that hold nothing but zeros: some programs reserve the whole space of a file that they fetch."""
    if matrices:
        log.warning("%s: nothing but zeros in %s: is the download complete?", name, listed(matrices))


def is_zero(weight: Tensor | NDArray[np.uint8]) -> bool:
    """Whether a matrix, or its blocks, holds nothing but zeros. Of others, only the last row is read."""
    return weight.ndim > 1 and 0 not in weight.shape and not weight[-1].any() and not weight.any()


def check_docstrings(path: Path) -> None:
    """Raise BadFile if Python drops docstrings, which transformers' models are made with."""
    if sys.flags.optimize > 1:
        raise BadFile(
            path,
            "transformers can make no model of it, as Python was started without docstrings (-OO, PYTHONOPTIMIZE=2); "
            "start it with -O, or with neither",
        )


def _is_finite(weight: Tensor) -> bool:
    for piece in torch.split(weight.reshape(-1), PIECE):
        least, most = torch.aminmax(piece) if len(piece) else (piece.new_zeros(()), piece.new_zeros(()))
        if not (torch.isfinite(least) and torch.isfinite(most)):
            return False
    return True


def refuse_larger(
    source: Source, config: PreTrainedConfig, build: "Callable[[PreTrainedConfig], PreTrainedModel]"
) -> None:
    """Check that a model is no larger than its files, before memory is allocated for it.

    Raises:
        BadFile: it is larger, or there is no such model.
    """
    path = source.config_path
    try:
        with torch.device("meta"):
            model = build(config)
    except Exception as error:
        check_docstrings(path)
        check_rotation(path, config)
        raise BadFile(path, f"no model can be made of it{_blamed(config, build)}: {reason(error)}") from error
    wanted = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    count = sum(map(math.prod, wanted.values()))
    if count <= 1.05 * source.elements + 4096:
        return
    shapes = source.shapes
    found = renamed(model, shapes.keys())
    missing = {own for name in wanted if name not in found and (own := source.called(name)) not in shapes}
    both = wanted.keys() & shapes.keys()
    unfit = [(name, shapes[name], wanted[name]) for name in both if math.prod(shapes[name]) != math.prod(wanted[name])]
    fault = (
        unfit_weights(unfit, source.origin.settings) if unfit else missing_weights(missing) if missing else UNCERTAIN
    )
    raise BadFile(
        path,
        f"it describes a model of {count} weights, but the files hold {source.elements}: {fault}. "
        f"{_advice(source.origin, missing)}",
    )


def _blamed(config: PreTrainedConfig, build: "Callable[[PreTrainedConfig], PreTrainedModel]") -> str:
    """The setting of which no model can be made: without it, one can."""
    for name, value, others in without_one(config.to_diff_dict()):
        with suppress(Exception), torch.device("meta"):
            build(type(config).from_dict(others))
            return f", for its {name}, {str(value)[:60]!r}"
    return ""


def _advice(origin: Origin, missing: Collection[str]) -> str:
    """What to do about weights that are missing, or of another shape."""
    return f"{IF_TIED if set(missing) == {HEAD} else ''}{origin.advice}"
