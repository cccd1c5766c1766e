#!/usr/bin/python3
"""Orders a machine and tells what becomes of it (Debian: apt install python3-pika).

    SLIPWAY_AMQP_URL=amqp://user:password@broker:5672/vhost ./panel.py order.install.json

Exit status: 0 the run is done, 1 the order was refused, is in conflict, or its run was canceled, 2 the run is parked,
3 nothing was heard for --timeout seconds, 4 the broker did not take the order.
"""
import argparse
import json
import os
import sys

import pika

ENDS = {
    "slipway.run.done": 0,
    "slipway.order.refused": 1,
    "slipway.order.conflict": 1,
    "slipway.run.canceled": 1,
    "slipway.run.parked": 2,
}


def main():
    parser = argparse.ArgumentParser(description="Order a machine and follow it.")
    parser.add_argument("order", help="a file with a CloudEvent; its source and id make it the same order for ever")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds of silence after which to give up")
    options = parser.parse_args()
    with open(options.order, "rb") as f:
        body = f.read()
    order = json.loads(body)

    # The address holds a password: it comes by the environment, where other users do not see it.
    url = os.environ.get("SLIPWAY_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()

    # Listen first, order then: no event is missed. A panel that is to survive its own restart declares a durable queue with a
    # name of its own here, acknowledges an event when it has stored it, and keeps the highest seq of each machine.
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, "slipway.events", "slipway.#")

    # Confirmed and mandatory: when this returns, the order is safe on the broker's disk.
    channel.confirm_delivery()
    try:
        channel.basic_publish(
            "slipway.orders",
            order["type"],
            body,
            pika.BasicProperties(
                content_type="application/cloudevents+json; charset=utf-8",
                delivery_mode=2,
                message_id=order["id"],
            ),
            mandatory=True,
        )
    except (pika.exceptions.UnroutableError, pika.exceptions.NackError) as e:
        print("the broker did not take the order: %s" % e, file=sys.stderr)
        return 4
    print("ordered %s" % order["id"], flush=True)

    seen = {}  # machine -> highest seq
    for method, _, body in channel.consume(queue, inactivity_timeout=options.timeout):
        if method is None:
            print("nothing heard for %g s" % options.timeout, file=sys.stderr)
            return 3
        event = json.loads(body)
        data = event["data"]
        channel.basic_ack(method.delivery_tag)
        if (data.get("order_source"), data.get("order_id")) != (order["source"], order["id"]):
            continue  # of another order
        machine, seq = event.get("subject"), event.get("seq", 0)
        if machine and event["type"] != "slipway.run.accepted":
            if seq <= seen.get(machine, 0):
                continue  # heard before
        seen[machine] = max(seq, seen.get(machine, 0))
        print(line(event), flush=True)
        if event["type"] in ENDS:
            return ENDS[event["type"]]
    return 3


def line(event):
    data = event["data"]
    words = ["%4s" % event.get("seq", ""), event["type"]]
    for name in ("machine", "state", "step", "outcome", "kind", "message", "fields", "public", "console_address", "console_port"):
        if data.get(name):
            words.append("%s=%s" % (name, json.dumps(data[name], ensure_ascii=True)))
    for e in data.get("errors", []):
        words.append("\n      " + json.dumps("%(field)s: %(problem)s; %(fix)s" % e, ensure_ascii=True))
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
