"""The broker that a hub was told to use, and RabbitMQ as one of the two kinds."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from cep.hub.accounts import Accounts
from cep.hub.options import HubOptions
from cep.hub.services import Addresses
from cep.hub.topology import Layout


@dataclass(frozen=True, slots=True)
class BrokerInUse:
    """What the rest of the hub needs to know of the broker.

    Attributes:
        own_url: AMQP URL with the hub's own login.
        addresses: What clients are told.
        accounts: Its users.
        layout: What is declared there.
    """

    own_url: str = field(repr=False)
    addresses: Addresses
    accounts: Accounts
    layout: Layout


async def rabbitmq(stack: AsyncExitStack, options: HubOptions, addresses: Addresses) -> BrokerInUse:
    """Try the RabbitMQ of the options, and say how it is used.

    Args:
        stack: Closes at its end what is opened here.
        options: They name a RabbitMQ.
        addresses: The hub's own; completed with the broker's, unless they name a public one.

    Raises:
        CepError: It does not answer, refuses the login, or lacks what is needed.
    """
    from cep.hub.rabbitmq import Management, RabbitAddress, check_rabbitmq
    from cep.hub.rabbitmq_accounts import RabbitAccounts

    assert options.amqp_url is not None
    rabbit = RabbitAddress.of(options.amqp_url, options.amqp_management_url)
    management = Management(rabbit)
    stack.callback(management.close)
    await asyncio.to_thread(check_rabbitmq, rabbit, management)
    return BrokerInUse(
        own_url=rabbit.url,
        addresses=replace(
            addresses,
            amqp_port=rabbit.port,
            public_amqp_url=addresses.public_amqp_url or rabbit.bare_url,
        ),
        accounts=RabbitAccounts(management),
        layout=Layout(topics=True),
    )
