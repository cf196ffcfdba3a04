"""JSON records on stdout, each with the id of its request."""

import json
import logging
import sys
from contextvars import ContextVar

request_id = ContextVar("request_id", default="")

# The attributes of every record. All others come from the `extra` of the call.
STANDARD = vars(logging.makeLogRecord({})).keys() | {"message"}


class JsonFormatter(logging.Formatter):
    def format(self, record):
        fields = {
            "levelname": record.levelname,
            "name": record.name,
            "lineno": record.lineno,
            "message": record.getMessage(),
            "request_id": request_id.get(),
        }
        fields |= {key: value for key, value in vars(record).items() if key not in STANDARD}
        if record.exc_info:
            fields["exc_info"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def init():
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
