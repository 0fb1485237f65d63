"""The hub: a self-hosted web service (REST and AMQP) with what endpoints and the SDK need."""
