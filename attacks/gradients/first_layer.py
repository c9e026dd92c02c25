"""Images in closed form, where a fully connected layer reads them."""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.attack import Findings, RebuiltBatch
from attacks.attacker import Attacker, UnavailableError
from attacks.gradients.analytic import layer_input, row_inputs
from attacks.gradients.messages import OF_UPDATES
from attacks.images import ImageSpace
from attacks.program import Program
from attacks.reconstruction import Progress
from attacks.threat import Knowledge, ThreatModel
from attacks.update import Update, last_updates


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstLayerInputs:
    """The inputs of a fully connected layer with a bias that reads the image, from its gradient.

    Geiping et al. 2020, proposition 3.1: dL/dW_i / dL/db_i = x exactly for one record. With several, every row gives a
    mixture, and rows that one record alone moves give that record; those that lie in the range of an image and farthest
    from one another are taken.
    """

    name: ClassVar[str] = "inputs of the first fully connected layer"
    needs: ClassVar[ThreatModel] = dataclasses.replace(
        OF_UPDATES, knows=OF_UPDATES.knows - {Knowledge.AUXILIARY_RECORDS}
    )

    @property
    def budget(self) -> str:
        """What it spends, in a line."""
        return "closed form"

    def run(self, attacker: Attacker, progress: Progress) -> Findings:
        """See :meth:`attacks.attack.Attack.run`."""
        space = attacker.space
        layer = _reader_of_images(attacker.program, space)
        found: list[RebuiltBatch] = []
        for update in last_updates(attacker):
            sizes = attacker.batch_sizes(update.client, update.round)
            if f"{layer}.weight" not in update.gradients or f"{layer}.bias" not in update.gradients or len(sizes) != 1:
                continue
            (records,) = sizes
            flat = _inputs(update, layer, records, space)
            images = flat.view(records, *space.shape_CHW)
            found.append(RebuiltBatch(number=update.number, images_BCHW=images, in_order=records == 1, fit=None))
            if sum(len(batch.images_BCHW) for batch in found) >= attacker.records:
                break
        if not found:
            raise UnavailableError("no gradient can be read from the updates of the layer that reads the image.")
        progress(1.0)
        return Findings(batches=tuple(found), budget=f"{self.budget}, {len(found)} updates")


def _reader_of_images(program: Program, space: ImageSpace) -> str:
    channels, height, width = space.shape_CHW
    held = None if program.split is None else set(program.split.client_parameters)
    modules: list[tuple[str, nn.Module]] = list(program.module.named_modules())
    for name, part in modules:
        size = part.in_features if isinstance(part, nn.Linear) and part.bias is not None else 0
        if size == channels * height * width and (held is None or f"{name}.bias" in held):
            return name
    raise UnavailableError("no fully connected layer with a bias reads an image as a whole.")


def _inputs(update: Update, layer: str, records: int, space: ImageSpace) -> Tensor:
    """As many different inputs as there are records, (B, C·H·W), as the model was given them."""
    weight_OI, bias_O = update.gradients[f"{layer}.weight"], update.gradients[f"{layer}.bias"]
    if records == 1:
        return layer_input(weight_OI, bias_O)[None].float()
    rows_RI = row_inputs(weight_OI, bias_O).float()
    if not len(rows_RI):
        return space.to_input(space.grey(records)).flatten(1)
    unit_RI = space.to_unit(rows_RI.view(-1, *space.shape_CHW)).flatten(1)
    outside_R = (unit_RI - unit_RI.clamp(0, 1)).square().mean(1)
    chosen = [int(outside_R.argmin())]
    while len(chosen) < records:
        apart_R = torch.cdist(unit_RI.clamp(0, 1), unit_RI[chosen].clamp(0, 1)).min(1).values
        chosen.append(int((apart_R / unit_RI.shape[1] ** 0.5 - outside_R.sqrt()).argmax()))
    return rows_RI[chosen]
