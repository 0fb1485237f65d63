"""Supervised AMQP 0-9-1 links, a consumer and a publisher on them; the only room with pika."""
