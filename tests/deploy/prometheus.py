"""What deploy/prometheus says against promtool and against the metrics of the running services."""

import json
import pathlib
import re
import subprocess
import tempfile
import unittest

import yaml
from service import Service
from settings import run

DIRECTORY = pathlib.Path("deploy/prometheus")

# What expressions have beside metrics, once selectors are gone.
PROMQL = {"and", "histogram_quantile", "increase", "last_over_time", "rate", "sum", "time"}


def metrics_in(expression):
    """The metrics that an expression reads."""
    named = [name for names in re.findall(r'__name__=~"(.*?)"', expression) for name in names.split("|")]
    rest = re.sub(r"\{.*?\}|\[.*?\]|(by|on) \(.*?\)", "", expression)
    return set(named) | set(re.findall(r"[a-z_:][\w:]{2,}", rest)) - PROMQL


class Prometheus(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        directory = cls.temporary.name
        run("target/debug/certs", "--dir", directory, "--service", "service1", "--service", "service2")
        service1 = Service("service1", MESH_TLS_DIR=f"{directory}/service1")
        cls.addClassCleanup(service1.kill)
        channel = f"localhost:{service1.address('grpc').rpartition(':')[2]}"
        service2 = Service("service2", MESH_TLS_DIR=f"{directory}/service2", SERVICE1_CHANNEL=channel)
        cls.addClassCleanup(service2.kill)
        service2.wait_until_ready()
        assert service2.say_hello("prometheus", "an-id")[0] == 200
        cls.texts = [it.get("/metrics", "admin") for it in [service1, service2]]
        # Of all services together, with the samples of histograms.
        cls.exported = set(re.findall(r"^(\w+)[{ ]", "\n".join(cls.texts), re.MULTILINE))
        cls.rules = yaml.safe_load((DIRECTORY / "rules.yml").read_text())
        cls.recorded = {rule["record"] for group in cls.rules["groups"] for rule in group["rules"] if "record" in rule}

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def test_promtool_has_nothing_to_say_about_the_metrics(self):
        for text in self.texts:
            done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_the_rules_hold(self):
        run("promtool", "check", "rules", str(DIRECTORY / "rules.yml"))
        done = subprocess.run(["promtool", "test", "rules", str(DIRECTORY / "rules-test.yml")], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        tested = yaml.safe_load((DIRECTORY / "rules-test.yml").read_text())["tests"]
        tested = {it["alertname"] for test in tested for it in test["alert_rule_test"] if it["exp_alerts"]}
        alerts = {rule["alert"] for group in self.rules["groups"] for rule in group["rules"] if "alert" in rule}
        self.assertEqual(tested, alerts)

    def test_the_configuration_is_valid(self):
        run("promtool", "check", "config", str(DIRECTORY / "prometheus.yml"))
        scraped = yaml.safe_load((DIRECTORY / "prometheus.yml").read_text())["scrape_configs"]
        self.assertEqual([it["job_name"] for it in scraped], ["service1", "service2"])

    def test_each_alert_says_what_to_do_and_has_its_section(self):
        alerts = [rule for group in self.rules["groups"] for rule in group["rules"] if "alert" in rule]
        for alert in alerts:
            self.assertEqual(set(alert["annotations"]), {"summary", "description", "runbook"}, alert["alert"])
            self.assertEqual(alert["annotations"]["runbook"], f"docs/alerts.md#{alert['alert'].lower()}")
        sections = re.findall(r"^## (\w+)$", pathlib.Path("docs/alerts.md").read_text(), re.MULTILINE)
        self.assertEqual(sections, list(dict.fromkeys(alert["alert"] for alert in alerts)))

    def test_kubernetes_has_the_same_rules(self):
        file = pathlib.Path("deploy/kubernetes/components/monitoring/rules.yaml")
        self.assertEqual(yaml.safe_load(file.read_text())["spec"], self.rules)

    def test_rules_and_dashboard_read_metrics_that_there_are(self):
        expressions = [rule["expr"] for group in self.rules["groups"] for rule in group["rules"]]
        dashboard = json.loads((DIRECTORY / "dashboard.json").read_text())
        expressions += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        for expression in expressions:
            used = metrics_in(expression)
            self.assertTrue(used, expression)
            self.assertLessEqual(used, self.exported | self.recorded, expression)

    def test_the_documentation_names_each_metric(self):
        page = pathlib.Path("docs/operating.md").read_text().partition("## Metrics")[2].partition("##")[0]
        named = {name for row in re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
        exported = {re.sub(r"_(bucket|sum|count)$", "", name) for name in self.exported}
        self.assertEqual({name for name in named if not name.isupper()}, exported)
