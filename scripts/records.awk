# Reads log records. scripts/run and scripts/trace put it before a program of theirs.

# Reads a line into `fields` by key, and the keys into `keys` from 1 on. Returns their number; 0 where
# the line is not one whole record.
function read(line,    rest, count, key) {
  split("", fields); split("", keys)
  if (substr(line, 1, 1) != "{") return 0
  rest = "," substr(line, 2)
  while (match(rest, /^,"[^"\\]*":/)) {
    key = substr(rest, 3, RLENGTH - 4)
    rest = substr(rest, RLENGTH + 1)
    if (match(rest, /^"([^"\\]|\\.)*"/)) fields[key] = unescaped(substr(rest, 2, RLENGTH - 2))
    else if (match(rest, /^[0-9A-Za-z.+-]+/)) fields[key] = substr(rest, 1, RLENGTH)
    else return 0
    rest = substr(rest, RLENGTH + 1)
    keys[++count] = key
  }
  return rest == "}" && ("name" in fields) && ("time" in fields) && ("msg" in fields) ? count : 0
}

# Text with its quotes and backslashes as they are. The other escapes stay: what they stand for may
# control a terminal.
function unescaped(text) {
  gsub(/\\\\/, "\001", text)
  gsub(/\\"/, "\"", text)
  gsub(/\001/, "\\\\", text)
  return text
}

# What the record is about: the request of an access line without its protocol, or the message.
function subject(    line) {
  if (!("first_request_line" in fields)) return fields["msg"]
  line = fields["first_request_line"]
  sub(/ HTTP\/[0-9.]+$/, "", line)
  return line
}

# What the client got, for an access line: "200, 14 bytes".
function response() {
  return fields["response_status"] (fields["grpc_code"] == "" ? "" : " " fields["grpc_code"]) \
    ", " fields["response_size"] " bytes"
}

function took() {
  return sprintf("%.3f ms", fields["request_time_frac"] * 1000)
}
