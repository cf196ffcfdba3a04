"""What docker-compose.yml and deploy/swarm say against the settings of the services."""

import pathlib
import unittest

import yaml
from settings import SETTINGS, drain, seconds

# Each with the files that it is merged from.
STACKS = {
    "compose": ["docker-compose.yml"],
    "swarm": ["deploy/swarm/stack.yml"],
    "swarm with ports of the nodes": ["deploy/swarm/stack.yml", "deploy/swarm/host-ports.yml"],
}


class Stacks(unittest.TestCase):
    def test_every_variable_is_a_setting_and_the_grace_period_is_longer_than_the_drain(self):
        for name, files in STACKS.items():
            merged = {service: {"environment": {}} for service in SETTINGS}
            for file in files:
                services = yaml.safe_load(pathlib.Path(file).read_text())["services"]
                for service in SETTINGS:
                    its, more = merged[service], services.get(service, {})
                    merged[service] = its | more | {"environment": its["environment"] | more.get("environment", {})}
            for service, its in merged.items():
                with self.subTest(stack=name, service=service):
                    self.assertLessEqual(its["environment"].keys(), SETTINGS[service].keys())
                    self.assertGreater(seconds(its["stop_grace_period"]), drain(service, its["environment"]))

    def test_reflection_is_for_development(self):
        for name, files in STACKS.items():
            stack = yaml.safe_load(pathlib.Path(files[0]).read_text())["services"]
            setting = stack["service1"]["environment"].get("REFLECTION")
            self.assertEqual(setting, None if name == "compose" else "off")

    def test_the_ports_for_operators_are_open_to_containers_and_to_nobody_beyond_the_host(self):
        for name, files in STACKS.items():
            stack = yaml.safe_load(pathlib.Path(files[0]).read_text())["services"]
            for service, settings in SETTINGS.items():
                with self.subTest(stack=name, service=service):
                    self.assertEqual(stack[service]["environment"]["ADMIN_HOST"], "0.0.0.0")
                    port = settings["ADMIN_PORT"]
                    published = [its for its in map(str, stack[service].get("ports", [])) if port in its]
                    variable = f"{service.upper()}_ADMIN_PORT"
                    self.assertEqual(published, [f"127.0.0.1:${{{variable}:-{port}}}:{port}"] if name == "compose" else [])
