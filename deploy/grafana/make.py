#!/usr/bin/env python3
"""Writes the dashboards beside it: edge.json, cloud.json, models.json. To change one, change its table here and run this.

usage: deploy/grafana/make.py [DIR]
"""
import json
import pathlib
import sys

HEIGHT = 7  # of a panel, in Grafana's rows; 24 columns are a row


def quantile(q, metric, by):
    return f"histogram_quantile({q}, sum by ({by}, le) (rate({metric}_bucket{{$select}}[$__rate_interval])))"


def rate(metric, by, select="$select"):
    return f"sum by ({by}) (rate({metric}{{{select}}}[$__rate_interval]))"


# (title, what it tells, unit, width, [(query, legend), …]); a single string is a row of its own. In queries $select is the
# dashboard's choice of instances.
EDGE = [
    "Are events safe, and do they leave?",
    ("Answering", "Gateways that Prometheus can ask.", "short", 4, [('sum(up{job="tidegate-edge"})', "up"), ('sum(1 - up{job="tidegate-edge"})', "away")]),
    ("Waiting for Pulsar", "Events on disk that Pulsar has not confirmed.", "short", 10, [("sum by (instance, lane) (tidegate_outbox_backlog_events{$select})", "{{instance}} {{lane}}")]),
    ("Age of the oldest that waits", "Of the oldest store with such events.", "s", 10, [("max by (instance, lane) (tidegate_outbox_oldest_age_seconds{$select})", "{{instance}} {{lane}}")]),
    ("In and out", "Events put on disk, and confirmed by Pulsar.", "short", 12, [(rate("tidegate_outbox_committed_events_total", "lane"), "on disk {{lane}}"), (rate("tidegate_uplink_confirmed_events_total", "lane"), "confirmed {{lane}}")]),
    ("Refused or lost", "Refused: the disk budget is used up, or the disk fails. Lost: damaged on disk. Both should be none.", "short", 6, [(rate("tidegate_outbox_refused_events_total", "instance, lane"), "refused {{instance}} {{lane}}"), ("sum by (instance, lane) (tidegate_outbox_lost_events_total{$select})", "lost {{instance}} {{lane}}")]),
    ("Disk in use", "By events, and by the journals of MQTT sessions and commands.", "bytes", 6, [("sum by (instance) (tidegate_outbox_disk_bytes{$select})", "events {{instance}}"), ("sum by (instance, journal) (tidegate_journal_disk_bytes{$select})", "{{journal}} {{instance}}")]),
    "How fast?",
    ("Commit", "Every answer to a device waits for one.", "s", 8, [(quantile(0.5, "tidegate_outbox_commit_seconds", "instance"), "median {{instance}}"), (quantile(0.99, "tidegate_outbox_commit_seconds", "instance"), "99 % {{instance}}")]),
    ("POST of events", "From its head to the answer.", "s", 8, [(quantile(0.5, "tidegate_http_post_duration_seconds", "instance"), "median {{instance}}"), (quantile(0.99, "tidegate_http_post_duration_seconds", "instance"), "99 % {{instance}}")]),
    ("Pulsar's confirmation", "From sending to the receipt.", "s", 8, [(quantile(0.5, "tidegate_uplink_receipt_seconds", "instance"), "median {{instance}}"), (quantile(0.99, "tidegate_uplink_receipt_seconds", "instance"), "99 % {{instance}}")]),
    "Devices",
    ("HTTP answers", "By status.", "short", 8, [(rate("tidegate_http_requests_total", "code"), "{{code}}")]),
    ("HTTP refusals", "By reason.", "short", 8, [(rate("tidegate_http_refused_total", "reason"), "{{reason}}")]),
    ("Connections", "HTTP, and MQTT by what they come over.", "short", 8, [("sum(tidegate_http_connections_open{$select})", "http"), ("sum by (kind) (tidegate_mqtt_connections_open{$select})", "mqtt {{kind}}")]),
    ("MQTT messages", "From clients, by what became of them.", "short", 8, [(rate("tidegate_mqtt_messages_total", "qos, fate"), "QoS {{qos}} {{fate}}")]),
    ("MQTT PUBACK", "From PUBLISH to PUBACK or PUBREC.", "s", 8, [(quantile(0.99, "tidegate_mqtt_ack_seconds", "instance"), "99 % {{instance}}")]),
    ("MQTT messages dropped", "Not taken, or not given to a subscriber.", "short", 8, [(rate("tidegate_mqtt_dropped_total", "reason"), "{{reason}}"), (rate("tidegate_mqtt_refused_total", "reason"), "upstream: {{reason}}")]),
    "The way back, keys and certificates",
    ("Control link", "1: connected.", "short", 6, [("tidegate_control_connected{$select}", "{{instance}}")]),
    ("Commands", "Waiting for their device's answer, and ends still to go upstream.", "short", 6, [("sum(tidegate_commands_waiting{$select})", "waiting"), ("sum(tidegate_commands_unreported{$select})", "to be reported")]),
    ("Certificates end in", "The first certificate of each file.", "s", 6, [("tidegate_tls_certificate_expiry_timestamp_seconds{$select} - time()", "{{instance}} {{file}}")]),
    ("Files not in force", "Something in them is wrong; what was before stays.", "short", 6, [("tidegate_identity_file_bad{$select}", "{{instance}} {{file}}"), ("tidegate_tls_files_bad{$select}", "{{instance}} TLS")]),
]

CLOUD = [
    "Has everything come?",
    ("Missing", "Sequences that have not come. Those on their way count for a moment.", "short", 8, [("sum by (lane) (tidegate_cloud_missing{$select})", "{{lane}}")]),
    ("Taken and stored", "Messages from Pulsar, repetitions included, and events on disk.", "short", 8, [(rate("tidegate_cloud_received_total", "lane"), "taken {{lane}}"), (rate("tidegate_cloud_stored_total", "lane"), "stored {{lane}}")]),
    ("Removed", "What came twice from a gateway, and what Pulsar delivered again.", "short", 8, [(rate("tidegate_cloud_duplicates_total", "lane"), "double {{lane}}"), (rate("tidegate_cloud_redelivered_total", "lane"), "again {{lane}}")]),
    ("Failures", "To store, consumers made again, messages that could not be decoded.", "short", 8, [(rate("tidegate_cloud_sink_failures_total", "lane"), "store {{lane}}"), (rate("tidegate_cloud_consumer_restarts_total", "lane"), "consumers {{lane}}"), (rate("tidegate_cloud_undecodable_total", "lane"), "decode {{lane}}")]),
    ("Commit", "Events and their account, made durable in one step.", "s", 8, [(quantile(0.5, "tidegate_cloud_commit_seconds", "lane"), "median {{lane}}"), (quantile(0.99, "tidegate_cloud_commit_seconds", "lane"), "99 % {{lane}}")]),
    ("Bytes", "Of lines, and as written to disk.", "Bps", 8, [(rate("tidegate_cloud_raw_bytes_total", "lane"), "lines {{lane}}"), (rate("tidegate_cloud_compressed_bytes_total", "lane"), "disk {{lane}}")]),
    "Gateways",
    ("Gateways", "Heard lately, or not.", "short", 8, [("max by (state) (tidegate_cloud_gateways{$select})", "{{state}}")]),
    ("Roll-outs", "Not over yet; which process carries them out; inboxes that are tried again.", "short", 8, [("max(tidegate_cloud_rollouts_active{$select})", "active"), ("tidegate_cloud_lead{$select}", "leads {{instance}}"), ("max(tidegate_cloud_inboxes_waiting{$select})", "inboxes waiting")]),
    ("Reports that do not count", "By reason; docs/security.md says what each is.", "short", 8, [(rate("tidegate_cloud_reports_dropped_total", "reason"), "{{reason}}")]),
    ("Assignments", "Put into inboxes.", "short", 8, [(rate("tidegate_cloud_assignments_total", "result"), "{{result}}")]),
]

MODELS = [
    "On the gateways",
    ("Gateways by version", "Of each model that is in use.", "short", 12, [('count by (model, version) (count_values by (model) ("version", tidegate_model_version{$select}))', "{{model}} {{version}}")]),
    ("What became of assigned models", "Per hour.", "short", 6, [("sum by (outcome) (increase(tidegate_model_outcomes_total{$select}[1h]))", "{{outcome}}")]),
    ("Still to be fetched", "Of the models that are on their way.", "bytes", 6, [("sum by (instance) (tidegate_model_lacking_bytes{$select})", "{{instance}}")]),
    "Scoring (builds with inference)",
    ("Scored and not", "Events, by model and reason.", "short", 8, [("sum by (model) (rate(tidegate_inference_scored_events_total{$select}[$__rate_interval]))", "scored {{model}}"), ("sum by (reason) (rate(tidegate_inference_unscored_events_total{$select}[$__rate_interval]))", "not: {{reason}}")]),
    ("Alarms", "Made of scores, and those that the outbox did not take.", "short", 8, [("sum(rate(tidegate_inference_alarms_total{$select}[$__rate_interval]))", "made"), ("sum(rate(tidegate_inference_alarms_lost_total{$select}[$__rate_interval]))", "lost")]),
    ("Candidate against the one in use", "Events that both have scored, and those of which one alone would have made an alarm.", "short", 8, [("sum(rate(tidegate_inference_compared_events_total{$select}[$__rate_interval]))", "compared"), ("sum(rate(tidegate_inference_disagreements_total{$select}[$__rate_interval]))", "disagree")]),
    "In the cloud",
    ("Published", "Versions, per day.", "short", 8, [('sum(increase(tidegate_cloud_models_published_total{job="tidegate-cloud"}[1d]))', "versions")]),
    ("Packs", "Bytes of what no earlier version has.", "bytes", 8, [('sum(increase(tidegate_cloud_models_pack_bytes_total{job="tidegate-cloud"}[1d]))', "bytes")]),
    ("Refused", "By reason; docs/models.md says what each is.", "short", 8, [('sum by (reason) (increase(tidegate_cloud_models_refused_total{job="tidegate-cloud"}[1d]))', "{{reason}}")]),
]


def panels(table):
    x = y = 0
    for number, entry in enumerate(table, 1):
        if isinstance(entry, str):
            y, x = (y + HEIGHT if x else y), 0
            yield {"id": number, "type": "row", "title": entry, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []}
            y += 1
            continue
        title, description, unit, width, queries = entry
        if x + width > 24:
            x, y = 0, y + HEIGHT
        yield {
            "id": number,
            "type": "timeseries",
            "title": title,
            "description": description,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "gridPos": {"x": x, "y": y, "w": width, "h": HEIGHT},
            "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 8, "showPoints": "never"}}, "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
            "targets": [
                {"refId": chr(ord("A") + i), "expr": query.replace("$select", 'instance=~"$instance"'), "legendFormat": legend}
                for i, (query, legend) in enumerate(queries)
            ],
        }
        x += width


def dashboard(name, title, job, table):
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}
    instance = {
        "name": "instance",
        "label": "Instance",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": f'label_values(up{{job="{job}"}}, instance)', "refId": "instance"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
    return {
        "uid": f"tidegate-{name}",
        "title": title,
        "tags": ["tidegate"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source, instance]},
        "panels": list(panels(table)),
    }


where = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
for name, title, job, table in [
    ("edge", "Tidegate: gateways", "tidegate-edge", EDGE),
    ("cloud", "Tidegate: cloud", "tidegate-cloud", CLOUD),
    ("models", "Tidegate: models", "tidegate-edge", MODELS),
]:
    text = json.dumps(dashboard(name, title, job, table), indent=1, ensure_ascii=False)
    (where / f"{name}.json").write_text(text + "\n")
