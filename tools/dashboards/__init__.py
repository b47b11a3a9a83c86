"""Makes the Grafana dashboards of deploy/grafana/dashboards: `python -m tools.dashboards`."""
