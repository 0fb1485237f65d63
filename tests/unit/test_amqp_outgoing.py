"""What a publisher holds, by publish tag, until the broker answers for it."""

from __future__ import annotations

from cep.amqp.outgoing import Message, Outgoing
from cep.model import PublishKwargs

ROUTE = PublishKwargs("", "results", True, {})


def filled(count: int, **window: int) -> Outgoing:
    outgoing = Outgoing(**window)
    outgoing.add([Message(token, b"%d" % token, ROUTE) for token in range(count)])
    return outgoing


def publish_all(outgoing: Outgoing, first_tag: int = 1) -> list[int]:
    tokens = []
    while (message := outgoing.next()) is not None:
        outgoing.published(first_tag + len(tokens), message)
        tokens.append(message.token)
    return tokens


def tokens_of(messages: object) -> list[int]:
    assert isinstance(messages, list | tuple)
    return [message.token for message in messages]


def test_a_multiple_confirm_is_for_all_open_tags_up_to_it() -> None:
    outgoing = filled(5)
    publish_all(outgoing)
    assert tokens_of(outgoing.answered(2, False)) == [1]
    assert tokens_of(outgoing.answered(3, True)) == [0, 2]
    assert tokens_of(outgoing.answered(3, True)) == []
    assert tokens_of(outgoing.answered(5, True)) == [3, 4]
    assert len(outgoing) == 0


def test_a_tag_that_belongs_to_no_kept_message_is_passed_over() -> None:
    outgoing = filled(1)
    publish_all(outgoing, first_tag=2)  # tag 1 was fire and forget
    assert outgoing.answered(1, False) == []
    assert tokens_of(outgoing.answered(2, True)) == [0]


def test_after_a_lost_channel_everything_unconfirmed_goes_again_in_order() -> None:
    """Fault 1: the tags of the new channel start at 1 again and mean other messages."""
    outgoing = filled(6, window_messages=4)
    assert publish_all(outgoing) == [0, 1, 2, 3]
    outgoing.answered(2, False)
    outgoing.channel_lost()
    outgoing.add([Message(9, b"later", ROUTE)])
    assert publish_all(outgoing) == [0, 2, 3, 4]
    assert tokens_of(outgoing.answered(4, True)) == [0, 2, 3, 4]
    assert publish_all(outgoing, first_tag=5) == [5, 9]


def test_the_window_bounds_messages_and_bytes_and_always_lets_one_through() -> None:
    assert len(publish_all(filled(10, window_messages=3))) == 3
    outgoing = Outgoing(window_bytes=100)
    outgoing.add([Message(n, bytes(60), ROUTE) for n in range(3)])
    assert publish_all(outgoing) == [0]
    large = Outgoing(window_bytes=100)
    large.add([Message(0, bytes(500), ROUTE), Message(1, b"", ROUTE)])
    assert publish_all(large) == [0]
    large.answered(1, False)
    assert publish_all(large, first_tag=2) == [1]


def test_a_returned_message_is_found_by_its_body() -> None:
    outgoing = filled(3)
    publish_all(outgoing)
    assert outgoing.returned(b"1", "no queue")
    assert not outgoing.returned(b"unknown", "no queue")
    answered = outgoing.answered(3, True)
    assert [message.returned for message in answered] == ["", "no queue", ""]


def test_a_message_that_the_broker_cannot_take_is_found_among_others() -> None:
    outgoing = filled(5)
    publish_all(outgoing)
    assert outgoing.channel_refused() == ()
    tag = 0
    culprits: list[int] = []
    confirmed: list[int] = []
    for _ in range(20):
        message = outgoing.next()
        if message is None:
            break
        tag += 1
        outgoing.published(tag, message)
        assert outgoing.next() is None  # one at a time while one of them is suspected
        if message.token == 3:
            culprits += tokens_of(outgoing.channel_refused())
            tag = 0
        else:
            confirmed += tokens_of(outgoing.answered(tag, False))
    assert culprits == [3]
    assert confirmed == [0, 1, 2, 4]
    outgoing.add([Message(10, b"", ROUTE), Message(11, b"", ROUTE)])
    assert publish_all(outgoing, tag + 1) == [10, 11]  # and then freely again
