import dataclasses

from attack_cases import threat_model
from hypothesis import given
from hypothesis import strategies as st

from attacks.threat import (
    COLLUDING_SERVERS,
    FED_SERVER,
    MALICIOUS_SERVER,
    NETWORK_OBSERVER,
    PRESETS,
    SPLIT_SERVER,
    Knowledge,
    who_could,
)
from lightning_sfl.link.message import MessageKind

NOTHING = threat_model()
THREATS = st.builds(
    lambda sees, knows, deviates: dataclasses.replace(threat_model(*sees, knows=knows), deviates=deviates),
    st.sets(st.sampled_from(MessageKind)),
    st.sets(st.sampled_from(Knowledge)),
    st.booleans(),
)

# What is lacking


@given(granted=THREATS, needed=THREATS)
def test_what_is_lacking_is_what_is_needed_and_not_granted(granted, needed):
    lacks = granted.lacks(needed)

    kinds = [kind.value for kind in MessageKind if kind in needed.sees and kind not in granted.sees]
    facts = [fact.value for fact in Knowledge if fact in needed.knows and fact not in granted.knows]
    deviating = ["deviating from the protocol"] if needed.deviates and not granted.deviates else []
    assert sorted(lacks) == sorted(kinds + facts + deviating)
    assert granted.lacks(granted) == ()
    assert granted.lacks(NOTHING) == ()


def test_messages_come_first_then_knowledge_then_deviating():
    needed = dataclasses.replace(
        threat_model(MessageKind.SMASHED, MessageKind.LABEL, knows=[Knowledge.QUERIES, Knowledge.ARCHITECTURE]),
        deviates=True,
    )

    assert NOTHING.lacks(needed) == ("label", "smashed", "architecture", "queries", "deviating from the protocol")


@given(needed=THREATS)
def test_those_could_who_lack_nothing(needed):
    assert who_could(needed) == tuple(threat.name for threat in PRESETS.values() if threat.lacks(needed) == ())


def test_who_could_by_hand():
    """Smashed data cross the cut, updates do not; only both servers, or who reads the wire, have the two together."""
    smashed, update = threat_model(MessageKind.SMASHED), threat_model(MessageKind.CLIENT_UPDATE)
    both = threat_model(MessageKind.SMASHED, MessageKind.CLIENT_UPDATE)

    assert who_could(smashed) == ("split server", "both servers", "network observer", "malicious server")
    assert who_could(update) == ("fed server", "both servers", "network observer", "malicious server")
    assert who_could(both) == ("both servers", "network observer", "malicious server")
    assert who_could(dataclasses.replace(both, deviates=True)) == ("malicious server",)
    assert who_could(NOTHING) == tuple(threat.name for threat in PRESETS.values())


# Presets

CROSSES_THE_CUT = {
    MessageKind.SMASHED,
    MessageKind.LABEL,
    MessageKind.MASK,
    MessageKind.INPUT,
    MessageKind.CUT_GRADIENT,
    MessageKind.SERVER_OUTPUT,
    MessageKind.OUTPUT_GRADIENT,
    MessageKind.SCALARS,
}
OF_THE_MODEL = {
    MessageKind.BROADCAST,
    MessageKind.CLIENT_UPDATE,
    MessageKind.OPTIMIZER_STATE,
    MessageKind.MOVED_LAYERS,
    MessageKind.MISSED_PAIRS,
}


def test_the_split_server_sees_what_crosses_the_cut_and_nothing_of_the_clients_model():
    assert SPLIT_SERVER.sees == CROSSES_THE_CUT | {MessageKind.SEEDS}
    assert Knowledge.SERVER_WEIGHTS in SPLIT_SERVER.knows
    assert not SPLIT_SERVER.knows & {
        Knowledge.CLIENT_WEIGHTS,
        Knowledge.BATCH_STATISTICS,
        Knowledge.LOCAL_HYPERPARAMETERS,
    }


def test_the_fed_server_sees_what_is_of_the_model_and_nothing_that_crosses_the_cut():
    assert FED_SERVER.sees == OF_THE_MODEL | {MessageKind.SEEDS}
    assert Knowledge.SERVER_WEIGHTS not in FED_SERVER.knows
    assert {Knowledge.CLIENT_WEIGHTS, Knowledge.LOCAL_HYPERPARAMETERS} <= FED_SERVER.knows


def test_both_servers_together_see_everything_and_know_what_either_knows():
    assert COLLUDING_SERVERS.sees == set(MessageKind)
    assert COLLUDING_SERVERS.knows == SPLIT_SERVER.knows | FED_SERVER.knows == set(Knowledge)


def test_who_reads_the_wire_sees_everything_and_knows_nothing_that_never_crosses():
    assert NETWORK_OBSERVER.sees == set(MessageKind)
    assert Knowledge.CLIENT_WEIGHTS in NETWORK_OBSERVER.knows  # they are broadcast
    assert not NETWORK_OBSERVER.knows & {Knowledge.SERVER_WEIGHTS, Knowledge.LOCAL_HYPERPARAMETERS}


def test_only_the_malicious_server_deviates_and_has_all_that_both_have():
    assert [threat for threat in PRESETS.values() if threat.deviates] == [MALICIOUS_SERVER]
    assert MALICIOUS_SERVER.sees == COLLUDING_SERVERS.sees
    assert MALICIOUS_SERVER.knows == COLLUDING_SERVERS.knows


def test_whoever_knows_the_clients_weights_is_sent_them():
    """Weights in force are read off broadcasts."""
    for threat in PRESETS.values():
        assert (Knowledge.CLIENT_WEIGHTS in threat.knows) == (MessageKind.BROADCAST in threat.sees)


def test_presets_go_by_the_names_that_configurations_give():
    assert list(PRESETS) == ["split_server", "fed_server", "both_servers", "network_observer", "malicious_server"]
    assert all(name.replace("_", " ") == threat.name for name, threat in PRESETS.items())
