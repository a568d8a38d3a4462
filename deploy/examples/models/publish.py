#!/usr/bin/env python3
"""Signs a model and publishes it, over HTTP or through Pulsar.

  publish.py anna.key press-anomaly 7 model.onnx http://127.0.0.1:8900
  publish.py anna.key press-anomaly 7 model.onnx pulsar://127.0.0.1:6650 [TENANT]

pip install cryptography blake3, and requests or pulsar-client."""
import base64, json, pathlib, sys, uuid
from blake3 import blake3
from cryptography.hazmat.primitives.serialization import load_pem_private_key

KIND = "application/vnd.tidegate.model.v1+json"
key, name, version, path, to, *tenant = sys.argv[1:]
model = pathlib.Path(path).read_bytes()

# Which bytes the version is; metadata is yours: what it was trained on, how good it is.
payload = json.dumps({
    "name": name, "version": int(version), "format": "onnx" if path.endswith(".onnx") else "opaque",
    "size": len(model), "blake3": blake3(model).hexdigest(), "metadata": {"trained_on": "lake/2026-10"},
}).encode()
# DSSE: what is signed names its type and both lengths.
signature = load_pem_private_key(pathlib.Path(key).read_bytes(), None).sign(
    b"DSSEv1 %d %s %d %s" % (len(KIND), KIND.encode(), len(payload), payload))
text = lambda data: base64.b64encode(data).decode()
manifest = json.dumps({"payloadType": KIND, "payload": text(payload), "signatures": [{"sig": text(signature)}]}).encode()

if to.startswith("http"):
    import requests
    answer = requests.post(f"{to}/v1/models/{name}/versions", data=manifest + b"\n" + model,
                           headers={"content-type": "application/octet-stream"})
    sys.exit(None if answer.ok else answer.json()["detail"])

import pulsar
client, topic = pulsar.Client(to), f"persistent://{(tenant or ['tidegate'])[0]}/models/"
update, parts = str(uuid.uuid4()), [manifest] + [model[i:i + (1 << 20)] for i in range(0, len(model), 1 << 20)]
results = client.create_reader(topic + "results", pulsar.MessageId.latest)
producer = client.create_producer(topic + "updates")
for n, part in enumerate(parts):
    producer.send(part, {"tg_update": update, "tg_part": str(n), "tg_parts": str(len(parts))})
while (result := json.loads(results.read_next().data()))["update"] != update:
    pass
client.close()
sys.exit(None if result["outcome"] == "published" else f"{result['reason']}: {result['detail']}")
