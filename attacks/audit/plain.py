"""What needs no attack: labels that cross in clear, and who computes the loss."""

from attacks.audit.truth import Truth
from lightning_sfl.link.log import MessageLog
from lightning_sfl.link.message import Message, MessageKind


def plain_notes(log: MessageLog, cut: str | None, truth: Truth, second_cut: str | None) -> tuple[str, ...]:
    """What a reader of a cut's cells must know of its labels.

    Args:
        log: The log.
        cut: The cut.
        truth: Says which labels are the records' own.
        second_cut: The second cut of a U-shape; None where there is none.
    """
    notes = []
    if second_cut is not None:
        notes.append(f"A U-shape: what is behind {second_cut!r} is the client's again, which computes the loss.")
    told = [m for m in log.messages(kinds=[MessageKind.LABEL, MessageKind.INPUT]) if m.cut == cut]
    newest = [message for message in told if message.step == told[-1].step]
    records = [(message, len(own)) for message in newest if (own := truth.labels_of(message.number)) is not None]
    shown = sum(count for message, count in records if _holds_labels(message, truth))
    if shown:
        whole = sum(count for _, count in records)
        whose = f"all {whole}" if shown == whole else f"{shown} of {whole}"
        notes.append(
            f"Labels cross in clear: those of {whose} records in step {told[-1].step}. That is no attack; attacks on"
            " labels say what would leak if they did not."
        )
    return tuple(notes)


def _holds_labels(message: Message, truth: Truth) -> bool:
    labels = truth.labels_of(message.number)
    return labels is not None and any(
        tensor.shape == labels.shape and bool((tensor == labels).all()) for tensor in message.decoded().values()
    )
