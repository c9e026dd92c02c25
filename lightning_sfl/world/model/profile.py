"""The profile of a model: what every valid cut costs, as a struct of arrays over the cuts."""

import dataclasses
import difflib
from collections.abc import Sequence

import numpy as np

from lightning_sfl.world.arrays import FloatArray, IntArray
from lightning_sfl.world.model.memory import greatest

Numbers = FloatArray | IntArray | float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """What the halves compute, hold and send at C cuts, in order of execution; 1 multiply-accumulate = 2 FLOP.

    What depends on the batch size b is affine in it: arrays (C, 2) of what is fixed and what comes with every sample.
    Memory is the greatest of L affine functions, (C, L, 2). FLOPs are those of matrix products, convolutions and
    attention. Memory counts live tensors; what a kernel needs for a moment within one operation is not seen. Everything
    is for samples of the profiled batch's shape, in the precision of the step.

    Attributes:
        cuts: Names of the cut modules.
        client_forward_flop: A client's forward pass up to the (first) cut, (C, 2).
        client_backward_flop: A client's backward pass from there, (C, 2).
        server_forward_flop: The server's forward pass on one client's smashed data, (C, 2).
        server_backward_flop: The server's backward pass, (C, 2).
        smashed_element: Elements of every tensor that crosses up, (C, T, 2); zeros where a cut has fewer tensors.
        smashed_bit: Their bits without a codec, (C, 2).
        cut_gradient_element: Elements of every tensor that comes back down, (C, T, 2).
        cut_gradient_bit: Their bits, (C, 2); 0 where nothing before the cut is trained.
        turn_flop: In a U-shape, the client's second part: from the second cut to the loss and back, (C, 2).
        returned_element: In a U-shape, elements of every tensor that comes down at the second cut, (C, T, 2).
        returned_bit: Their bits, (C, 2).
        returned_gradient_element: Elements of every tensor of their gradient, up, (C, T, 2).
        returned_gradient_bit: Their bits, (C, 2).
        beside_bit: Bits of labels, masks and allowed inputs, up, (C, 2).
        client_parameters: Parameters (scalars) that a client holds, (C,).
        client_parameter_byte: Their bytes, (C,).
        client_buffer_byte: Bytes of the client's buffers, (C,).
        update_parameters: Those among the parameters that are trained, and averaged, (C,).
        update_bit: A client update or broadcast: trained parameters, and buffers of the state dict, (C,).
        optimizer_state_bit: The optimizer's state that goes with them, (C,).
        client_training_memory_line: Weights, buffers, gradients, optimizer state, the batch, activations, and what the
            backward pass and the optimizer's step take for a while, in bytes, (C, L, 2).
        client_forward_memory_line: Weights, buffers, the batch, and activations of a forward pass without gradients, in
            bytes, (C, L, 2).
        batch_byte: Bytes of the batch, which both memories hold, (2,).
        whole: The same of an uncut model, as a client of federated averaging holds it, with C = 1; None in itself.
    """

    cuts: tuple[str, ...]
    client_forward_flop: FloatArray
    client_backward_flop: FloatArray
    server_forward_flop: FloatArray
    server_backward_flop: FloatArray
    smashed_element: FloatArray
    smashed_bit: FloatArray
    cut_gradient_element: FloatArray
    cut_gradient_bit: FloatArray
    turn_flop: FloatArray
    returned_element: FloatArray
    returned_bit: FloatArray
    returned_gradient_element: FloatArray
    returned_gradient_bit: FloatArray
    beside_bit: FloatArray
    client_parameters: IntArray
    client_parameter_byte: FloatArray
    client_buffer_byte: FloatArray
    update_parameters: IntArray
    update_bit: FloatArray
    optimizer_state_bit: FloatArray
    client_training_memory_line: FloatArray
    client_forward_memory_line: FloatArray
    batch_byte: FloatArray
    whole: "Profile | None"

    def index(self, cuts: Sequence[str]) -> IntArray:
        """The places of these cuts, (N,).

        Raises:
            ValueError: One is not in the profile.
        """
        places = {name: place for place, name in enumerate(self.cuts)}
        if unknown := next((name for name in cuts if name not in places), None):
            near = difflib.get_close_matches(unknown, self.cuts, n=3, cutoff=0.5) or self.cuts[:3]
            raise ValueError(
                f"cut={unknown!r} is not among the {len(self.cuts)} cuts of the profile; near are"
                f" {', '.join(map(repr, near))}."
            )
        return np.array([places[name] for name in cuts], dtype=np.int64)

    def training_memory_byte(self, cut: IntArray | int, batch_size: Numbers) -> FloatArray:
        """What clients that cut there hold at most in a step with backpropagation, (N,)."""
        return greatest(self.client_training_memory_line[cut], np.asarray(batch_size, dtype=np.float64))

    def forward_memory_byte(self, cut: IntArray | int, batch_size: Numbers) -> FloatArray:
        """What clients that cut there hold at most in a step of forward passes alone, (N,)."""
        return greatest(self.client_forward_memory_line[cut], np.asarray(batch_size, dtype=np.float64))


def at(lines: FloatArray, batch_size: Numbers) -> FloatArray:
    """Affine functions (..., 2) at batch sizes (...)."""
    found: FloatArray = lines[..., 0] + lines[..., 1] * batch_size
    return found
