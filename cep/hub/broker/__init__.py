"""An embedded AMQP 0-9-1 broker on asyncio: what endpoints and the SDK use, done properly."""
