"""The channels of one connection: which there are, what goes to each, and how a wrong one ends.

Owned by its connection and run on the broker's event loop. The fault of a channel closes that
channel, and the connection goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pamqp import commands

from cep.hub.broker import frames
from cep.hub.broker.channel import Channel
from cep.hub.broker.publishing import Confirms
from cep.hub.broker.replies import ChannelFault, Code, ConnectionFault

if TYPE_CHECKING:
    from cep.hub.broker.broker import Broker
    from cep.hub.broker.connection import Connection


class Channels:
    """See the module's docstring."""

    def __init__(self, connection: Connection, broker: Broker) -> None:
        self._connection = connection
        self._broker = broker
        self._channels: dict[int, Channel] = {}
        self._confirming: dict[int, Confirms] = {}

    # -- frames in -----------------------------------------------------------------------------

    def method(self, number: int, payload: bytes) -> None:
        """Carry out a method of a channel; the first one opens it.

        Raises:
            ConnectionFault: There is no such channel, or it is open already.
        """
        index = int.from_bytes(payload[:4], "big")
        channel = self._channels.get(number)
        if channel is None:
            if index == commands.Channel.Open.index and number <= self._broker.limits.channels:
                self._channels[number] = Channel(number, self._connection, self._broker)
                self._connection.send(frames.encode_method(number, commands.Channel.OpenOk()))
            elif index != commands.Channel.CloseOk.index:  # that one may cross a close
                raise ConnectionFault(Code.CHANNEL_ERROR, f"channel {number} is not open")
        elif index == commands.Channel.Open.index:
            raise ConnectionFault(Code.CHANNEL_ERROR, f"channel {number} is open already")
        elif index == commands.Channel.Close.index:
            del self._channels[number]
            if channel.open:
                channel.shut()
            self._connection.send(frames.encode_method(number, commands.Channel.CloseOk()))
        elif not channel.open:
            if index == commands.Channel.CloseOk.index:
                del self._channels[number]
        else:
            try:
                channel.method(index, payload)
            except ChannelFault as fault:
                self._close(channel, fault, index)

    def content(self, number: int, kind: int, payload: bytes) -> bool:
        """Take a part of a message's content; False when there is no such channel."""
        channel = self._channels.get(number)
        if channel is not None and channel.open:
            try:
                if kind == frames.HEADER:
                    channel.publishing.header(payload)
                else:
                    channel.publishing.body(payload)
            except ChannelFault as fault:
                self._close(channel, fault, frames.PUBLISH)
        return channel is not None

    def _close(self, channel: Channel, fault: ChannelFault, index: int) -> None:
        self._connection.warn("channel_fault", fault.text)
        confirms = self._confirming.pop(channel.number, None)
        if confirms is not None:
            self._connection.send(confirms.frames(channel.number))
        close = commands.Channel.Close(fault.code, fault.text, index >> 16, index & 0xFFFF)
        self._connection.send(frames.encode_method(channel.number, close))
        channel.shut()

    # -- frames out ----------------------------------------------------------------------------

    def confirm(self, number: int, confirms: Confirms) -> None:
        """Confirms of a channel are due."""
        self._confirming[number] = confirms

    def confirms_due(self) -> list[bytes]:
        """The frames of all confirms that are due; those of channels that have ended are not."""
        due = []
        for number, confirms in self._confirming.items():
            channel = self._channels.get(number)
            if channel is not None and channel.publishing.confirms is confirms and channel.open:
                due.append(confirms.frames(number))
        self._confirming.clear()
        return due

    def pump(self) -> None:
        """Deliveries may go on."""
        for channel in list(self._channels.values()):
            channel.pump()

    def shut(self) -> None:
        """The connection ends: everything that channels held goes back."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.shut()
