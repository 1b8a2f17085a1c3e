"""Where the dashboards come from: `python -m grafana.source` writes grafana/dashboards/*.json.

1. A dashboard is data (`spec`); one place turns it into Grafana's schema (`build`).
2. Queries read metrics of `batchns.metrics.contract` only, through `promql`; no dashboard needs the recording rules.
3. The JSON is committed, and a test compares it with what this package makes.
"""
