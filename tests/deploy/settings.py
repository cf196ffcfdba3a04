"""The settings of the services, as their help has them."""

import re
import subprocess


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def settings(program):
    """The variables that a service reads, each with its default."""
    help = run(f"target/debug/{program}", "--help")
    return dict(re.findall(r"\[env: (\w+)=\](?:\s*\[default: (.*?)\])?", help))


SETTINGS = {program: settings(program) for program in ["service1", "service2"]}


def seconds(duration):
    return int(re.fullmatch(r"(\d+)s", duration).group(1))


def drain(program, variables):
    """The seconds that a service may take to end."""
    its = SETTINGS[program] | variables
    return seconds(its["DRAIN_DELAY"]) + seconds(its["DRAIN_TIMEOUT"])
