"""Runs a suite of eclipse/paho.mqtt.testing at any port, and all of it: as it comes client_test.py knows only port 1883,
and leaves out will_message_test, because its name does not begin with "test".

usage: paho_suites.py CHECKOUT client_test|client_test5 PORT
"""

import importlib
import os
import sys
import unittest

checkout, name, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.path.insert(0, os.path.join(checkout, "interoperability"))
suite = importlib.import_module(name)
# What its own main sets.
suite.host, suite.port = "localhost", port
suite.topics = ("TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA")
suite.wildtopics = ("TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#")
suite.nosubscribe_topics = ("test/nosubscribe",)
suite.topic_prefix = "client_test5/"
tests = unittest.defaultTestLoader.loadTestsFromTestCase(suite.Test)
if hasattr(suite.Test, "will_message_test"):
    tests.addTest(suite.Test("will_message_test"))
result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(tests)
failed = sorted(case.id().rsplit(".", 1)[-1].rstrip(")") for case, _ in result.failures + result.errors)
print(f"{result.testsRun} run, not passed: {', '.join(failed) or 'none'}", flush=True)
os._exit(0)  # its clients' threads may still wait
