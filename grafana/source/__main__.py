"""Write every dashboard into grafana/dashboards."""

from grafana.source.build import FOLDER, texts

for name, text in texts().items():
    (FOLDER / name).write_text(text)
