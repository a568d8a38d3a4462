"""Eclipse Paho's Python client lives through what a device lives through; the gateway's side is checked by paho.rs.

usage: paho_story.py PORT TAG PROTOCOL(4|5) API(1|2) CA|-
"""

import queue
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.packettypes import PacketTypes

PORT, TAG, PROTOCOL, API, CA = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
PATIENCE = 30  # nothing here takes that long, unless it never ends


class Device:
    """A client whose callbacks put what happens into a queue."""

    def __init__(self, name, clean=True, user=None, will=None):
        arguments = {"client_id": f"{TAG}-{name}", "protocol": PROTOCOL}
        if PROTOCOL == 4:
            arguments["clean_session"] = clean
        if hasattr(mqtt, "CallbackAPIVersion"):  # since 2.0
            arguments["callback_api_version"] = mqtt.CallbackAPIVersion(API)
        self.clean, self.events, self.messages = clean, queue.Queue(), queue.Queue()
        self.client = client = mqtt.Client(**arguments)
        # The properties come last, and only 5.0 has them in the first API.
        client.on_connect = lambda c, u, flags, code, *_: self.events.put(("connack", present(flags), code))
        client.on_subscribe = lambda c, u, mid, *rest: self.events.put(("suback", mid, rest[0]))
        client.on_publish = lambda c, u, mid, *_: self.events.put(("published", mid))
        client.on_message = lambda c, u, m: self.messages.put((m.topic, m.payload.decode(), m.qos, bool(m.retain)))
        if CA != "-":
            client.tls_set(ca_certs=CA)
        if user:
            client.username_pw_set(*user)
        if will:
            client.will_set(*will)

    def connect(self):
        arguments = {}
        if PROTOCOL == 5:
            lasting = Properties(PacketTypes.CONNECT)
            lasting.SessionExpiryInterval = 0 if self.clean else 60
            arguments = {"clean_start": self.clean, "properties": lasting}
        self.client.connect("localhost", PORT, keepalive=30, **arguments)
        self.client.loop_start()
        return self.event("connack")[1:]

    def enter(self, present=False):
        found, code = self.connect()
        assert (found, number(code)) == (present, 0), (found, code)
        return self

    def event(self, kind):
        event = self.events.get(timeout=PATIENCE)
        assert event[0] == kind, event
        return event

    def subscribe(self, topic, qos):
        result, mid = self.client.subscribe(topic, qos)
        assert result == mqtt.MQTT_ERR_SUCCESS
        _, same, granted = self.event("suback")
        assert (same, [number(code) for code in granted]) == (mid, [qos]), granted

    def publish(self, topic, payload, qos, retain=False):
        sent = self.client.publish(f"{TAG}/{topic}", payload, qos, retain)
        sent.wait_for_publish(PATIENCE)
        assert self.event("published")[1] == sent.mid

    def expect(self, topic, payload, qos, retain=False):
        got = self.messages.get(timeout=PATIENCE)
        assert got == (f"{TAG}/{topic}", payload, qos, retain), got

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()


def present(flags):
    return bool(flags["session present"] if isinstance(flags, dict) else flags.session_present)


def number(code):
    return getattr(code, "value", code)


def main():
    watcher = Device("watcher").enter()
    watcher.subscribe(f"{TAG}/+/#", 2)
    publisher = Device("publisher").enter()
    for qos in (0, 1, 2):
        publisher.publish(f"qos/{qos}", str(qos), qos)
        watcher.expect(f"qos/{qos}", str(qos), qos)

    publisher.publish("state/now", "kept", 1, retain=True)
    watcher.expect("state/now", "kept", 1)
    late = Device("late").enter()
    late.subscribe(f"{TAG}/state/+", 1)
    late.expect("state/now", "kept", 1, retain=True)
    late.leave()

    absent = Device("absent", clean=False).enter()
    absent.subscribe(f"{TAG}/queue/#", 2)
    absent.leave()
    # The one with QoS 2 is the last: it counts for the client once it is released, which later ones may overtake.
    waiting = [("queue/x", "a", 1), ("queue/y/z", "b", 1), ("queue/x", "c", 2)]
    for message in waiting:
        publisher.publish(*message)
        watcher.expect(*message)
    absent = Device("absent", clean=False).enter(present=True)
    for message in waiting:
        absent.expect(*message)
    absent.leave()

    mortal = Device("mortal", will=(f"{TAG}/will/mortal", "gone", 1)).enter()
    mortal.client.loop_stop()
    mortal.client.socket().close()
    watcher.expect("will/mortal", "gone", 1)

    _, code = Device("stranger", user=("press-7", "wrong")).connect()
    if PROTOCOL == 4 and API == 1:
        assert (code, mqtt.connack_string(code)) == (4, "Connection Refused: bad user name or password."), code
    else:
        assert (code.value, str(code)) == (134, "Bad user name or password"), code
    known = Device("known", user=("press-7", "right")).enter()
    known.publish("known/x", "mine", 1)
    watcher.expect("known/x", "mine", 1)
    for device in (known, publisher, watcher):
        device.leave()
    time.sleep(0.1)
    assert watcher.messages.empty(), watcher.messages.get()


main()
