"""Messages for the tests of message logs."""

import dataclasses

import torch
from hypothesis import strategies as st

from lightning_sfl.link.message import Message, MessageKind, client_name


def make(number, *, round=0, client=0, kind=MessageKind.SMASHED, uplink=True, tensors=None):
    ends = (client_name(client), "server") if uplink else ("server", client_name(client))
    return Message(
        number=number,
        kind=kind,
        sender=ends[0],
        receiver=ends[1],
        round=round,
        step=round,
        cut="layer",
        tensors={"0": torch.full((2,), float(number))} if tensors is None else tensors,
    )


def described(messages):
    return [
        (dataclasses.replace(message, tensors={}), {name: value.tolist() for name, value in message.tensors.items()})
        for message in messages
    ]


def numbers(log, **options):
    return [message.number for message in log.messages(**options)]


SENT = st.lists(
    st.tuples(
        st.sampled_from(MessageKind),
        st.booleans(),
        st.integers(0, 3),
        st.integers(0, 2),
        st.dictionaries(st.text(max_size=3), st.integers(0, 5), max_size=3),
    ),
    max_size=12,
)
