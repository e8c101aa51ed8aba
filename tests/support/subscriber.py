#!/usr/bin/python3
"""subscriber.py PORT EXCHANGE KEY COUNT -- a plain subscriber of a site: one JSON line for each message.

It declares the exchange transient, as the programs of the time did, and reads the header `filename` without asking
whether it is there. Its first line says that it is bound.
"""
import json
import sys

import pika

port, exchange, key, count = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
login = pika.PlainCredentials("admin", "admin")
connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port, "/", login))
channel = connection.channel()
channel.exchange_declare(exchange, exchange_type="topic", durable=False, auto_delete=False)
queue = channel.queue_declare("", exclusive=True).method.queue
channel.queue_bind(queue, exchange, key)
print(json.dumps({"bound": queue}), flush=True)
for method, properties, body in channel.consume(queue):
    given = {name: value for name, value in vars(properties).items() if value is not None}
    print(json.dumps({
        "key": method.routing_key,
        "body": body.decode(),
        "filename": properties.headers["filename"],
        "headers": properties.headers,
        "properties": given,
    }), flush=True)
    channel.basic_ack(method.delivery_tag)
    count -= 1
    if count == 0:
        break
connection.close()
