"""Dashboards, rules and settings for Prometheus and Grafana; none of it is installed with batchns."""
