"""What schemathesis may not ask for: a stream of two thousand million items ends at the deadline."""

import schemathesis

LONGEST = 100_000


@schemathesis.hook
def before_call(context, case, kwargs):
    length = (case.query or {}).get("length")
    if case.operation.path.endswith("/stream") and str(length).isdecimal() and LONGEST < int(length) < 2**31:
        case.query["length"] = LONGEST
