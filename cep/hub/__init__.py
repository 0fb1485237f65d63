"""The self-hosted web service: REST application, store, relay, embedded AMQP broker."""
